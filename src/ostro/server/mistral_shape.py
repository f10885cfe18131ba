"""Chat streams as Mistral's own API has them, for clients that rely on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
from fastapi import Request

from ostro.core.request import ToolCall, Usage
from ostro.server.answering import Job
from ostro.server.chat_shape import ChatShape
from ostro.server.generation import Piece
from ostro.tokenizer.answers import CallArguments, CallStart
from ostro.web.chat import ChatChunk, FunctionCall, ToolCallDelta
from ostro.web.wire import UsageInfo


def wants_mistral_stream(request: Request) -> bool:
    """Whether the client asks for event streams by type, as Mistral's clients do; OpenAI's ask for JSON in any case."""
    return request.headers.get("accept", "").partition(";")[0].strip().lower() == "text/event-stream"


class MistralChatShape(ChatShape):
    """Each tool call comes whole, in one chunk (langchain-mistralai joins no pieces), and the chunk that ends the
    last choice has the usage, which these clients have no field to ask for.

    usage: what the answer has cost so far.
    """

    def __init__(self, job: Job, usage: Callable[[], Usage], *, prefix: str = "", chunks: bool = False) -> None:
        super().__init__(job, prefix=prefix, chunks=chunks)
        self._usage = usage
        self._unfinished = job.num_choices
        self._calls: dict[int, tuple[int, ToolCall]] = {}

    def piece(self, piece: Piece) -> ChatChunk:
        chunk = super().piece(piece)
        self._unfinished -= piece.finish_reason is not None
        if piece.finish_reason is None or self._unfinished:
            return chunk
        return msgspec.structs.replace(chunk, usage=UsageInfo.of(self._usage()))

    def call_deltas(self, piece: Piece) -> Iterator[ToolCallDelta]:
        for part in piece.parts:
            if isinstance(part, CallStart):
                yield from self._whole_call(piece.index)
                self._calls[piece.index] = (part.index, ToolCall(part.id, part.name))
            elif isinstance(part, CallArguments):
                self._calls[piece.index][1].arguments += part.text
        if piece.finish_reason is not None:
            yield from self._whole_call(piece.index)

    def _whole_call(self, choice: int) -> Iterator[ToolCallDelta]:
        if choice in self._calls:
            index, call = self._calls.pop(choice)
            function = FunctionCall(call.name, call.arguments)
            yield ToolCallDelta(index=index, id=call.id, type="function", function=function)
