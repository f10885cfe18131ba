"""What both completion endpoints do with a request once it is tokens: submit, wait, answer whole or streamed."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from fastapi import Request, Response

from ostro.core.errors import OstroError, PromptTooLongError
from ostro.core.expand import expand
from ostro.core.media import Prompt
from ostro.core.request import LabelScore, TokenLogprobs, ToolCall, Usage
from ostro.core.sampling import SamplingParams
from ostro.server.context import ServerContext
from ostro.server.generation import AnswerReader, Generation, Piece, TokensOnly
from ostro.server.models import ServedModel
from ostro.tokenizer.answers import CallArguments, CallStart, Reasoning, Text
from ostro.tokenizer.parser import PlainParser
from ostro.web.disconnect import while_connected
from ostro.web.errors import error_chunk
from ostro.web.sse import DONE, KEEP_ALIVE, EventStreamResponse, sse_data
from ostro.web.wire import GenerationRequest, UsageInfo

log = logging.getLogger("ostro.server")

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One HTTP request to answer. num_choices: answers that the client is shown."""

    model: ServedModel
    body: GenerationRequest
    id: str
    num_choices: int
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def shows_token_ids(self) -> bool:
        """Where asked for, and where nothing else can be shown."""
        return bool(self.body.return_token_ids) or self.model.tokenizer is None


@dataclass
class Choice:
    """A whole answer, gathered from its pieces."""

    index: int
    text: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    finish_reason: str = ""
    labels: Sequence[LabelScore] = ()

    def add(self, piece: Piece) -> None:
        for part in piece.parts:
            match part:
                case Text(text):
                    self.text += text
                case Reasoning(text):
                    self.reasoning += text
                case CallStart(_, call_id, name):
                    self.calls.append(ToolCall(call_id, name))
                case CallArguments(index, text):
                    self.calls[index].arguments += text
        self.token_ids += piece.token_ids
        if piece.logprobs is not None:
            self.logprobs = (self.logprobs or []) + piece.logprobs
        self.prompt_logprobs = piece.prompt_logprobs or self.prompt_logprobs
        self.finish_reason = piece.finish_reason or self.finish_reason
        self.labels = piece.labels or self.labels


@dataclass(frozen=True)
class Shape:
    """How an endpoint writes its answers. Each function returns a msgspec struct.

    start: chunks before any token. piece: the chunk of a piece. last: the chunk that only carries usage.
    whole: the answer that is not streamed.
    """

    start: Callable[[], Sequence[Any]]
    piece: Callable[[Piece], Any]
    last: Callable[[Usage], Any]
    whole: Callable[[Sequence[Choice], Usage], Any]


def plain_reader(model: ServedModel, params: SamplingParams) -> Callable[[], AnswerReader]:
    """Readers of text that goes on from a prompt's."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        return TokensOnly
    return lambda: PlainParser(tokenizer, stop=params.stop, min_tokens=params.min_tokens)


async def answer(
    request: Request,
    context: ServerContext,
    job: Job,
    shape: Shape,
    generation: Generation,
    ignored: Sequence[str] = (),
) -> Response:
    """Answer with what a job's generation gives.

    Everything that goes wrong before the first token is an HTTP status, streamed or not. ignored: fields that the
    model has no place for.
    """
    headers = job.body.ignored_header(*ignored)
    if job.body.stream:
        return await stream(request, context, generation, _frames(generation, job, shape), headers)
    choices = await whole(request, generation, gather(generation))
    return json_response(shape.whole(choices, generation.usage()), headers)


async def whole(request: Request, generation: Generation, work: Coroutine[Any, Any, T]) -> T:
    """The result of work that reads a generation to its end, which is closed where that fails or the client leaves."""
    try:
        return await while_connected(request, work)
    except BaseException:  # a client that left, too: what it asked for must not run on
        generation.close()
        raise


async def stream(
    request: Request,
    context: ServerContext,
    generation: Generation,
    frames: AsyncIterator[bytes],
    headers: Mapping[str, str],
    *,
    heartbeat: bytes = KEEP_ALIVE,
) -> Response:
    """A generation as events. What goes wrong before its first token is raised, so that it is a status.

    heartbeat: what a silent stream is kept open with.
    """
    # Not for ever: after a while the stream opens and heartbeats keep it.
    await whole(request, generation, generation.wait_first(context.heartbeat_s))
    return EventStreamResponse(
        frames, close=generation.close, headers=headers, heartbeat_s=context.heartbeat_s, heartbeat=heartbeat
    )


def submit(
    context: ServerContext,
    model: ServedModel,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    reader: Callable[[], AnswerReader],
    *,
    request_id: str,
    priority: int = 0,
    timeout_s: float | None = None,
    param: str = "prompt",
    format_param: str = "response_format",
    inspect: bool = False,
    owner: str,
) -> Generation:
    """Queue prompts. owner: whose they are; nobody else's requests share what the engine caches of them. param: where
    they came from, for a PromptTooLongError; format_param: where their answers' form
    did, for a grammar that takes too much work. inspect: how attention is routed is to be told."""
    card = model.ready_card()
    eos_ids = model.eos_ids()
    groups = []
    for index, prompt in enumerate(prompts):
        try:
            group = expand(
                request_id if len(prompts) == 1 else f"{request_id}-p{index}",
                prompt.token_ids,
                params,
                spans=prompt.spans,
                media=prompt.media,
                inspect=inspect,
                eos_ids=eos_ids,
                context=card.context,
                priority=priority,
                timeout_s=timeout_s,
                salt=owner,
            )
        except PromptTooLongError as error:
            error.param = param
            raise
        groups.append(group)
    return Generation(model, groups, reader, context.metrics, format_param)


async def gather(generation: Generation) -> list[Choice]:
    """All answers, whole. Raises what ended the request in their place."""
    choices = [Choice(index) for index in range(generation.num_choices)]
    while (piece := await generation.next()) is not None:
        choices[piece.index].add(piece)
    return choices


async def _frames(generation: Generation, job: Job, shape: Shape) -> AsyncIterator[bytes]:
    try:
        for chunk in shape.start():
            yield sse_data(chunk)
        while (piece := await generation.next()) is not None:
            # Bytes of half a character, or the start of a stop string, are held back: nothing to say yet.
            if piece.parts or piece.finish_reason is not None or piece.logprobs or piece.labels or job.shows_token_ids:
                chunk = shape.piece(piece)
                if job.body.usage_in_chunks:
                    chunk = msgspec.structs.replace(chunk, usage=UsageInfo.of(generation.usage()))
                yield sse_data(chunk)
        if job.body.include_usage:
            yield sse_data(shape.last(generation.usage()))
    except Exception as error:  # noqa: BLE001 - the status is long sent, so a stream can only say it in a chunk
        yield sse_data(error_chunk(stream_failure(error, job.id)))
    yield DONE


def stream_failure(error: Exception, answer_id: str) -> OstroError:
    """What a stream tells of an error that ended it; the log has what was not expected."""
    if isinstance(error, OstroError):
        return error
    log.error("the stream of %s failed", answer_id, exc_info=error)
    return OstroError("The server failed on this request. Its log says why.")


def json_response(body: Any, headers: Mapping[str, str]) -> Response:
    return Response(msgspec.json.encode(body), headers=dict(headers), media_type="application/json")
