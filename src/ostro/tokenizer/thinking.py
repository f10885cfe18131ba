"""Reasoning that a model writes as text: `<think>…</think>` at the beginning of its answer."""

from __future__ import annotations

from typing import Protocol

OPEN, CLOSE = "<think>", "</think>"


class Sink(Protocol):
    def text(self, text: str) -> None: ...

    def reasoning(self, text: str) -> None: ...


class WrittenThought:
    """Finds the markers in characters that come in any pieces; held back is only what may still be one.

    The white space around the opening marker and behind the closing one belongs to neither.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._held = ""
        self.inside = False
        self._decided = False
        self._trimming = False

    def feed(self, text: str) -> None:
        if self._decided and not self.inside:
            self._after(text)
            return
        self._held += text
        if not self._decided:
            self._look_for_opening()
        if self.inside:
            self._look_for_closing()

    def close(self) -> None:
        """Nothing more comes; a thought that was not closed stays one."""
        held, self._held = self._held, ""
        if held:
            (self._sink.reasoning if self.inside else self._sink.text)(held)
        self.inside = False
        self._decided = True

    def _look_for_opening(self) -> None:
        begin = self._held.lstrip()
        if begin.startswith(OPEN):
            self._held = begin[len(OPEN) :]
            self._decided = self.inside = True
        elif not OPEN.startswith(begin):
            held, self._held = self._held, ""
            self._decided = True
            self._sink.text(held)

    def _look_for_closing(self) -> None:
        at = self._held.find(CLOSE)
        if at >= 0:
            thought, rest = self._held[:at], self._held[at + len(CLOSE) :]
            self._held = ""
            self.inside = False
            self._trimming = True
            self._sink.reasoning(thought)
            self._after(rest)
            return
        keep = _overlap(self._held, CLOSE)
        thought, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        self._sink.reasoning(thought)

    def _after(self, text: str) -> None:
        if self._trimming:
            text = text.lstrip()
            self._trimming = not text
        self._sink.text(text)


def _overlap(text: str, marker: str) -> int:
    """Characters at the end of `text` that may be the beginning of `marker`."""
    most = min(len(text), len(marker) - 1)
    return next((size for size in range(most, 0, -1) if text.endswith(marker[:size])), 0)
