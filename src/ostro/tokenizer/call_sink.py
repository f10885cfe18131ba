"""Where the parts of calls go, and the text behind them."""

from __future__ import annotations

from typing import Protocol


class Sink(Protocol):
    """Takes the parts of an answer in order."""

    def text(self, text: str) -> None: ...

    def start(self, name: str, call_id: str | None) -> int:
        """A call begins; returns its index. The id is the model's, where it gave a valid one."""

    def arguments(self, index: int, text: str) -> None: ...


class Trailing:
    """Text behind calls. trim: white space at its beginning is nothing."""

    def __init__(self, sink: Sink, *, trim: bool) -> None:
        self._sink = sink
        self._trim = trim

    def feed(self, text: str) -> None:
        if self._trim:
            text = text.lstrip()
            self._trim = not text
        self._sink.text(text)
