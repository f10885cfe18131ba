"""What both completion endpoints do with a request once it is tokens: submit, wait, answer whole or streamed."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from fastapi import Request, Response

from ostro.core.errors import OstroError, PromptTooLongError
from ostro.core.expand import expand
from ostro.core.request import TokenLogprobs, Usage
from ostro.core.sampling import SamplingParams
from ostro.server.context import ServerContext
from ostro.server.generation import Generation, Piece
from ostro.server.models import ServedModel
from ostro.web.disconnect import while_connected
from ostro.web.errors import error_body
from ostro.web.sse import DONE, EventStreamResponse, sse_data
from ostro.web.wire import GenerationRequest

log = logging.getLogger("ostro.server")


@dataclass(frozen=True)
class Job:
    """One HTTP request, resolved. continuation: the answers go on from their prompts' text."""

    model: ServedModel
    body: GenerationRequest
    params: SamplingParams
    prompts: Sequence[list[int]]
    continuation: bool
    id: str
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def num_choices(self) -> int:
        return len(self.prompts) * self.params.n

    @property
    def shows_token_ids(self) -> bool:
        """Where asked for, and where nothing else can be shown."""
        return self.body.return_token_ids or self.model.tokenizer is None


@dataclass
class Choice:
    """A whole answer, gathered from its pieces."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: str = ""

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.token_ids += piece.token_ids
        if piece.logprobs is not None:
            self.logprobs = (self.logprobs or []) + piece.logprobs
        self.finish_reason = piece.finish_reason or self.finish_reason


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


async def answer(request: Request, context: ServerContext, job: Job, shape: Shape) -> Response:
    """Run a job. Everything that goes wrong before the first token is an HTTP status, streamed or not."""
    generation = _submit(context, job)
    headers = job.body.ignored_header()
    try:
        if not job.body.stream:
            choices = await while_connected(request, _gather(generation, job))
            return _json(shape.whole(choices, generation.usage()), headers)
        # An early refusal (a full queue, a deadline) still can be a status. Not for ever: after a while the
        # stream opens and heartbeats keep it.
        await while_connected(request, generation.wait_first(context.heartbeat_s))
    except BaseException:
        generation.close()
        raise
    return EventStreamResponse(
        _frames(generation, job, shape),
        close=generation.close,
        headers=headers,
        heartbeat_s=context.heartbeat_s,
    )


def _submit(context: ServerContext, job: Job) -> Generation:
    card = job.model.ready_card()
    eos_ids = job.model.eos_ids()
    groups = []
    for index, prompt in enumerate(job.prompts):
        request_id = job.id if len(job.prompts) == 1 else f"{job.id}-p{index}"
        try:
            group = expand(
                request_id,
                prompt,
                job.params,
                eos_ids=eos_ids,
                context=card.context,
                priority=job.body.priority,
                timeout_s=job.body.timeout,
            )
        except PromptTooLongError as error:
            error.param = "messages" if hasattr(job.body, "messages") else "prompt"
            raise
        groups.append(group)
    return Generation(job.model, groups, job.params.stop, context.metrics, continuation=job.continuation)


async def _gather(generation: Generation, job: Job) -> list[Choice]:
    choices = [Choice(index) for index in range(job.num_choices)]
    while (piece := await generation.next()) is not None:
        choices[piece.index].add(piece)
    return choices


async def _frames(generation: Generation, job: Job, shape: Shape) -> AsyncIterator[bytes]:
    try:
        for chunk in shape.start():
            yield sse_data(chunk)
        while (piece := await generation.next()) is not None:
            # Bytes of half a character, or the start of a stop string, are held back: nothing to say yet.
            if piece.text or piece.finish_reason is not None or piece.logprobs or job.shows_token_ids:
                yield sse_data(shape.piece(piece))
        if job.body.include_usage:
            yield sse_data(shape.last(generation.usage()))
    except OstroError as error:
        yield sse_data(error_body(error))
    except Exception:  # the status is long sent, so a stream can only say it in a chunk
        log.exception("the stream of %s failed", job.id)
        yield sse_data(error_body(OstroError("The server failed on this request. Its log says why.")))
    yield DONE


def _json(body: Any, headers: Mapping[str, str]) -> Response:
    return Response(msgspec.json.encode(body), headers=dict(headers), media_type="application/json")
