"""Tokens of an answer to its parts, as they come: a state machine on token ids.

Markers are control tokens, recognised by id before they are dropped, so text that merely looks like one stays text.
Between markers a segment's bytes are decoded; what its characters mean is the segment's business (calls.py for calls).
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping, Sequence

from ostro.core.ids import new_tool_call_id
from ostro.tokenizer.answers import CallArguments, CallStart, Parsed, Part, Reasoning, Text
from ostro.tokenizer.base import Tokenizer
from ostro.tokenizer.calls import CallReader
from ostro.tokenizer.detokenizer import Detokenizer
from ostro.tokenizer.stops import StopFinder
from ostro.tokenizer.thinking import WrittenThought

TOOL_CALLS, CALL_ID, ARGS, THINK, END_THINK = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]", "[THINK]", "[/THINK]"


class AnswerParser:
    """One answer's parts, piece by piece. However the tokens are cut into pushes, the joined parts are the same.

    stop: strings that end the answer and are not part of it; only text is searched for them, not reasoning or calls,
        and nothing that comes with the first `min_tokens` tokens.
    continuation: the answer goes on from the prompt's text, so a SentencePiece space at its beginning is kept.
    thinking: it goes on within a thought (`Tokenizer.leaves_thinking` of the prompt).
    tools: whether calls are parsed; without, what they say is text. new_id: makes ids for calls that have none.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str] = (),
        min_tokens: int = 0,
        continuation: bool = False,
        thinking: bool = False,
        tools: bool = True,
        formatted: bool = False,
        new_id: Callable[[], str] = new_tool_call_id,
    ) -> None:
        self._tokenizer = tokenizer
        self._markers = _markers(tokenizer, tools)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        # Under a format a leading space is the format's business, and what looks like a thought is its text.
        self._begun = continuation or formatted
        self._parts = _Parts(StopFinder(stop) if stop else None, new_id)
        self._min_tokens = min_tokens
        self._count = 0
        self._thinking = thinking
        self._calls: CallReader | None = None
        # Vocabularies without the tokens have models that write the marker as text, at the answer's beginning.
        self._written = None if self._begun or tokenizer.can_reason else WrittenThought(self._parts)

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the answer, if one did."""
        return None if self._parts.stops is None else self._parts.stops.found

    def push(self, token_ids: Sequence[int]) -> Parsed:
        """Add ids in order. After a stop nothing is taken any more."""
        parts, tokenizer = self._parts, self._tokenizer
        consumed = reasoning = 0
        for token_id in token_ids:
            if parts.stopped:
                break
            consumed += 1
            self._count += 1
            parts.watching = self._count > self._min_tokens
            marker = self._markers.get(token_id)
            if marker is not None:
                reasoning += self._thinks
                self._mark(marker)
            elif tokenizer.contributes(token_id):
                raw = tokenizer.token_bytes(token_id) if self._begun else tokenizer.leading_bytes(token_id)
                self._begun = True
                if text := self._decoder.decode(raw):
                    self._take(text)
                reasoning += self._thinks
        return Parsed(parts.drain(), parts.stopped, consumed, reasoning)

    def finish(self) -> list[Part]:
        """The rest: text held back for a stop string or a marker, an unfinished character, an unfinished call."""
        if not self._parts.stopped:
            self._end_segment()
            self._parts.flush()
        return self._parts.drain()

    @property
    def _thinks(self) -> bool:
        return self._thinking or (self._written is not None and self._written.inside)

    def _take(self, text: str) -> None:
        if self._calls is not None:
            self._calls.feed(text)
        elif self._thinking:
            self._parts.reasoning(text)
        elif self._written is not None:
            self._written.feed(text)
        else:
            self._parts.text(text)

    def _mark(self, marker: str) -> None:
        if marker in (CALL_ID, ARGS):
            if self._calls is not None:  # elsewhere they mean nothing, and what is open goes on
                self._flush_character()
                self._calls.args() if marker == ARGS else self._calls.call_id()
            return
        self._end_segment()
        if marker == TOOL_CALLS:
            self._calls = CallReader(self._parts)
        else:
            self._thinking = marker == THINK

    def _end_segment(self) -> None:
        """What is open ends here: half a character, a thought, a run of calls."""
        self._flush_character()
        if self._calls is not None:
            self._calls.close()
            self._calls = None
        if self._written is not None:
            self._written.close()
            self._written = None
        self._thinking = False

    def _flush_character(self) -> None:
        if rest := self._decoder.decode(b"", final=True):
            self._take(rest)


class PlainParser:
    """The same face for a completion: all of it is text."""

    def __init__(
        self, tokenizer: Tokenizer, *, stop: Sequence[str] = (), min_tokens: int = 0, continuation: bool = True
    ) -> None:
        self._text = Detokenizer(tokenizer, stop, min_tokens=min_tokens, continuation=continuation)

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the text, if one did."""
        return self._text.stop_string

    def push(self, token_ids: Sequence[int]) -> Parsed:
        text, stopped, consumed = self._text.push(token_ids)
        return Parsed([Text(text)] if text else [], stopped, consumed, 0)

    def finish(self) -> list[Part]:
        text = self._text.finish()
        return [Text(text)] if text else []


class _Parts:
    """Gathers parts, neighbours of one kind as one, and watches text for stop strings."""

    def __init__(self, stops: StopFinder | None, new_id: Callable[[], str]) -> None:
        self.stops = stops
        self.watching = True
        self._new_id = new_id
        self._calls = 0
        self._done: list[Part] = []
        self._kind: tuple[type[Part], int] | None = None
        self._pieces: list[str] = []

    @property
    def stopped(self) -> bool:
        return self.stops is not None and self.stops.stopped

    def text(self, text: str) -> None:
        if self.stops is not None and self.watching:
            text = self.stops.feed(text)
        self._add((Text, 0), text)

    def reasoning(self, text: str) -> None:
        self._add((Reasoning, 0), text)

    def start(self, name: str, call_id: str | None) -> int:
        self.flush()  # text that was held back stood before the call
        self._close()
        index = self._calls
        self._calls += 1
        self._done.append(CallStart(index, call_id or self._new_id(), name))
        return index

    def arguments(self, index: int, text: str) -> None:
        self._add((CallArguments, index), text)

    def flush(self) -> None:
        """Text that is held back for a stop string is text."""
        if self.stops is not None and not self.stops.stopped:
            self._add((Text, 0), self.stops.flush())

    def drain(self) -> list[Part]:
        self._close()
        done, self._done = self._done, []
        return done

    def _add(self, kind: tuple[type[Part], int], text: str) -> None:
        if not text:
            return
        if kind != self._kind:
            self._close()
            self._kind = kind
        self._pieces.append(text)

    def _close(self) -> None:
        if self._kind is None:
            return
        kind, index = self._kind
        text = "".join(self._pieces)
        self._done.append(CallArguments(index, text) if kind is CallArguments else kind(text))  # type: ignore[call-arg,arg-type]  # each kind has its own arguments
        self._kind = None
        self._pieces = []


def _markers(tokenizer: Tokenizer, tools: bool) -> Mapping[int, str]:
    """Markers by id. Without tools, only those of reasoning; the others are dropped as control tokens are."""
    names = (TOOL_CALLS, CALL_ID, ARGS, THINK, END_THINK) if tools else (THINK, END_THINK)
    found = ((tokenizer.special_id(name), name) for name in names)
    return {token_id: name for token_id, name in found if token_id is not None}
