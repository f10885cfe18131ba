"""From engine requests to pieces of answers: one `Generation` a HTTP request, whatever its shape."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ostro.core.errors import DeadlineExceededError, InvalidRequestError, OstroError
from ostro.core.protocols import EventStream
from ostro.core.request import EngineRequest, LabelScore, Routing, TokenLogprobs, TokensEvent, Usage
from ostro.observability.metrics import ServerMetrics
from ostro.server.models import ServedModel
from ostro.tokenizer.answers import CallStart, Parsed, Part, Text


@dataclass(frozen=True)
class Piece:
    """What was new of one choice.

    parts: text, reasoning and calls, in order. finish_reason: "stop", "length" or "tool_calls" on a choice's last
    piece. prompt_logprobs: on a choice's first piece, where they were asked for. stop_string: the one that ended the
    choice, if one did. labels: of the prompt, on a choice's first piece, from models that have a head for them.
    """

    index: int
    parts: list[Part]
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None
    finish_reason: str | None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    stop_string: str | None = None
    labels: Sequence[LabelScore] = ()

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, Text))


class AnswerReader(Protocol):
    """Understands the tokens of one answer as they come. stop_string: the one that ended it, if one did."""

    @property
    def stop_string(self) -> str | None: ...

    def push(self, token_ids: Sequence[int]) -> Parsed: ...

    def finish(self) -> list[Part]: ...


class TokensOnly:
    """Reads the answer of a model without a tokenizer: its tokens are all there is to show."""

    stop_string = None

    def push(self, token_ids: Sequence[int]) -> Parsed:
        return Parsed([], False, len(token_ids), 0)

    def finish(self) -> list[Part]:
        return []


class Generation:
    """All choices of one HTTP request.

    groups: for each prompt, its engine requests (`n` of them); choices are numbered in that order.
    reader: makes the reader of one choice. format_param: the field that said what form answers must have.
    Everything is submitted at once. Close it whatever happens, or the engine works on for nobody.
    Raises NotReadyError, InvalidRequestError.
    """

    def __init__(
        self,
        model: ServedModel,
        groups: Sequence[Sequence[EngineRequest]],
        reader: Callable[[], AnswerReader],
        metrics: ServerMetrics,
        format_param: str = "response_format",
    ) -> None:
        self._groups = groups
        self._choices: list[_Choice] = []
        self._pumps: list[asyncio.Task[None]] = []
        self._queue: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        self._first: Piece | None = None
        try:
            for request in (request for group in groups for request in group):
                stream = model.engine.submit(request)
                self._choices.append(_Choice(len(self._choices), model.name, stream, reader(), metrics, format_param))
        except OstroError:
            for choice in self._choices:
                choice.close("error")
            raise
        self._unfinished = len(self._choices)

    @property
    def num_choices(self) -> int:
        return len(self._choices)

    async def wait_first(self, seconds: float) -> None:
        """Return when there is a first piece, or after `seconds`. Raises what ended the request before it."""
        try:
            async with asyncio.timeout(seconds):
                self._first = await self._await_piece()
        except TimeoutError:
            return

    async def next(self) -> Piece | None:
        """The next piece of any choice; None when all are finished.

        Raises QueueFullError, EngineDeadError, InvalidRequestError, DeadlineExceededError.
        """
        piece, self._first = self._first, None
        if piece is None:
            if not self._unfinished:
                return None
            piece = await self._await_piece()
        if piece.finish_reason is not None:
            self._unfinished -= 1
        return piece

    def usage(self) -> Usage:
        """Tokens so far. A prompt counts once, however many choices it has."""
        firsts = [sum(len(group) for group in self._groups[:i]) for i in range(len(self._groups))]
        return Usage(
            prompt_tokens=sum(len(group[0].prompt_token_ids) for group in self._groups),
            completion_tokens=sum(choice.tokens for choice in self._choices),
            cached_tokens=sum(self._choices[first].cached for first in firsts),
            reasoning_tokens=sum(choice.reasoning for choice in self._choices),
        )

    @property
    def labels(self) -> list[LabelScore]:
        """What the model's head for labels said of the first prompt; there from the first piece on."""
        return self._choices[0].labels

    @property
    def routing(self) -> Routing | None:
        """How attention was routed, where that was asked for and the model routes."""
        return self._choices[0].routing

    def close(self) -> None:
        """Abort what is not finished; its blocks are free as soon as the engine hears of it."""
        for pump in self._pumps:
            pump.cancel()
        for choice in self._choices:
            choice.close("abort")

    async def _await_piece(self) -> Piece:
        if len(self._choices) == 1:
            return await self._choices[0].next()
        if not self._pumps:
            self._pumps = [asyncio.create_task(self._pump(choice)) for choice in self._choices]
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item

    async def _pump(self, choice: _Choice) -> None:
        """Move one choice's pieces into the common queue. One that fails ends the whole answer."""
        try:
            while True:
                piece = await choice.next()
                self._queue.put_nowait(piece)
                if piece.finish_reason is not None:
                    return
        except Exception as error:  # noqa: BLE001 - raised again by whoever reads the queue
            self._queue.put_nowait(error)


class _Choice:
    """One sequence on its way to an answer."""

    def __init__(
        self,
        index: int,
        model: str,
        stream: EventStream,
        reader: AnswerReader,
        metrics: ServerMetrics,
        format_param: str,
    ) -> None:
        self.index = index
        self._format_param = format_param
        self.tokens = 0
        self.cached = 0
        self.reasoning = 0
        self.labels: list[LabelScore] = []
        self.routing: Routing | None = None
        self._called = False
        self._model = model
        self._stream = stream
        self._reader = reader
        self._metrics = metrics
        self._started = self._last = time.monotonic()
        self._closed = False

    async def next(self) -> Piece:
        """The tokens that came since the last call. Raises what ended the request in place of an answer."""
        try:
            event = await anext(self._stream)
            self._refuse_bad_end(event)
        except OstroError as error:
            self.close("deadline" if isinstance(error, DeadlineExceededError) else "error")
            raise
        self._note_times(len(event.token_ids))
        self.cached = max(self.cached, event.cached_tokens)
        self.labels = event.labels or self.labels
        self.routing = event.routing or self.routing
        piece = self._piece(event)
        self.tokens += len(piece.token_ids)
        if piece.finish_reason is not None:
            self.close(piece.finish_reason)
        return piece

    def close(self, reason: str) -> None:
        if self._closed:
            return
        self._closed = True
        self._metrics.finished(self._model, reason, time.monotonic() - self._started)
        self._stream.abort()

    def _piece(self, event: TokensEvent) -> Piece:
        reason = event.finish_reason
        parts, stopped, consumed, reasoning = self._reader.push(event.token_ids)
        if stopped:
            reason = "stop"
        elif reason is not None:
            parts = [*parts, *self._reader.finish()]
        self.reasoning += reasoning
        self._called = self._called or any(isinstance(part, CallStart) for part in parts)
        if reason == "stop" and self._called:
            reason = "tool_calls"
        logprobs = None if event.logprobs is None else event.logprobs[:consumed]
        return Piece(
            self.index,
            parts,
            event.token_ids[:consumed],
            logprobs,
            reason,
            event.prompt_logprobs,
            self._reader.stop_string if reason is not None else None,
            event.labels,
        )

    def _refuse_bad_end(self, event: TokensEvent) -> None:
        if event.finish_reason in (None, "stop", "length"):
            return
        if event.finish_reason == "deadline":
            raise DeadlineExceededError("The request's deadline passed before it was done.", param="timeout")
        message = event.error or f"The engine ended the request: {event.finish_reason}."
        if event.error_param is not None:
            raise InvalidRequestError(message, param=self._format_param, code="invalid_grammar")
        raise OstroError(message)

    def _note_times(self, count: int) -> None:
        now = time.monotonic()
        if self.tokens == 0:
            self._metrics.first_token(self._model, now - self._started)
        elif count:
            self._metrics.tokens(self._model, count, now - self._last)
        self._last = now
