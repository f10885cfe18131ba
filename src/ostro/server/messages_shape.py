"""Answers in the shape of `/v1/messages`: blocks in the order in which the model made them, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import msgspec
from pydantic_core import from_json

from ostro.core.ids import new_id
from ostro.core.request import Usage
from ostro.server.answering import stream_failure
from ostro.server.generation import Generation, Piece
from ostro.tokenizer.answers import CallArguments, CallStart, Part, Reasoning, Text
from ostro.web.message_answer import (
    AnyMessageEvent,
    Block,
    BlockDelta,
    BlockDeltaEvent,
    BlockStart,
    BlockStop,
    Ending,
    InputJsonDelta,
    Message,
    MessageDelta,
    MessageStart,
    MessageStop,
    MessageUsage,
    Ping,
    SignatureDelta,
    StopReason,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
    event_name,
)
from ostro.web.message_errors import message_error
from ostro.web.sse import sse_event

PING = sse_event("ping", Ping())

_REASONS: dict[str, StopReason] = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class MessageShape:
    """model: the name that the answer tells. shows_thoughts: without, a thought is an empty block."""

    def __init__(self, model: str, *, shows_thoughts: bool = True) -> None:
        self.id = new_id("msg").replace("-", "_")
        self._model = model
        self._shows_thoughts = shows_thoughts

    async def whole(self, generation: Generation) -> Message:
        """The answer, once it is all there. Raises what ended the request in its place."""
        blocks: list[_Open] = []
        ending = Ending("end_turn", None)
        while (piece := await generation.next()) is not None:
            for part in piece.parts:
                if not (blocks and blocks[-1].takes(part)):
                    blocks.append(_Open(part))
                blocks[-1].pieces.append(_said(part))
            ending = _ending(piece) or ending
        content = [block.whole(self._shows_thoughts) for block in blocks]
        return self._message(content, generation.usage(), ending)

    async def frames(self, generation: Generation, request_id: str) -> AsyncIterator[bytes]:
        """The same as named events. request_id: for an error, which ends them without a `message_stop`."""
        try:
            async for event in self._events(generation):
                yield sse_event(event_name(event), event)
        except Exception as error:  # noqa: BLE001 - the status is long sent, so a stream can only say it in an event
            yield sse_event("error", message_error(stream_failure(error, self.id), request_id))

    async def _events(self, generation: Generation) -> AsyncIterator[AnyMessageEvent]:
        yield MessageStart(self._message([], generation.usage(), None))
        index, block = -1, None
        ending = Ending("end_turn", None)
        while (piece := await generation.next()) is not None:
            for part in piece.parts:
                if block is None or not block.takes(part):
                    for event in _closing(index, block):
                        yield event
                    index, block = index + 1, _Open(part)
                    yield BlockStart(index, block.empty())
                delta = self._delta(part)
                if delta is not None:
                    yield BlockDeltaEvent(index, delta)
            ending = _ending(piece) or ending
        for event in _closing(index, block):
            yield event
        yield MessageDelta(ending, MessageUsage.of(generation.usage()))
        yield MessageStop()

    def _delta(self, part: Part) -> BlockDelta | None:
        match part:
            case Text(text):
                return TextDelta(text)
            case Reasoning(text):
                return ThinkingDelta(text) if self._shows_thoughts else None
            case CallArguments(_, text):
                return InputJsonDelta(text)
            case CallStart():
                return None

    def _message(self, content: list[Block], usage: Usage, ending: Ending | None) -> Message:
        return Message(
            id=self.id,
            model=self._model,
            content=content,
            stop_reason=None if ending is None else ending.stop_reason,
            stop_sequence=None if ending is None else ending.stop_sequence,
            usage=MessageUsage.of(usage),
        )


@dataclass
class _Open:
    """A block that more parts may go to. first: the part that began it."""

    first: Part
    pieces: list[str] = field(default_factory=list)

    def takes(self, part: Part) -> bool:
        if isinstance(self.first, CallStart):
            return isinstance(part, CallArguments)
        return type(part) is type(self.first)

    def empty(self) -> Block:
        """The block as a stream announces it."""
        match self.first:
            case CallStart(_, call_id, name):
                return ToolUseBlock(call_id, name, {})
            case Reasoning():
                return ThinkingBlock("")
            case _:
                return TextBlock("")

    def whole(self, shows_thoughts: bool) -> Block:
        said = "".join(self.pieces)
        match self.first:
            case CallStart(_, call_id, name):
                return ToolUseBlock(call_id, name, _input(said))
            case Reasoning():
                return ThinkingBlock(said if shows_thoughts else "")
            case _:
                return TextBlock(said)


def _said(part: Part) -> str:
    return "" if isinstance(part, CallStart) else part.text


def _closing(index: int, block: _Open | None) -> Iterator[AnyMessageEvent]:
    if block is None:
        return
    if isinstance(block.first, Reasoning):
        yield BlockDeltaEvent(index, SignatureDelta(""))
    yield BlockStop(index)


def _ending(piece: Piece) -> Ending | None:
    """How an answer ended. Calls come before a stop string behind them: they are the client's to answer."""
    if piece.finish_reason is None:
        return None
    if piece.finish_reason == "stop" and piece.stop_string is not None:
        return Ending("stop_sequence", piece.stop_string)
    return Ending(_REASONS[piece.finish_reason], None)


def _input(arguments: str) -> msgspec.Raw:
    """A call's arguments as a JSON object. Of arguments that were cut, what is complete: the same that clients make of
    a stream that ends there. Text that is no object is kept in one, under the name that Anthropic advises for it."""
    if not arguments.strip():
        return msgspec.Raw(b"{}")
    try:
        value = from_json(arguments, allow_inf_nan=False, allow_partial=True)
        if isinstance(value, dict):
            # A number such as 1e999 is read as one that JSON has no word for.
            return msgspec.Raw(json.dumps(value, allow_nan=False).encode())
    except ValueError:
        pass
    return msgspec.Raw(json.dumps({"INVALID_JSON": arguments}).encode())
