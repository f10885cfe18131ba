"""The events of one request on their way from the supervisor to whoever waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ostro.core.errors import OstroError
from ostro.core.request import TokensEvent


class TokenStream:
    """An `EventStream` fed by `push` and `fail`.

    A reader slower than the engine gets several steps' tokens as one event, so nothing piles up but tokens.
    """

    def __init__(self, request_id: str, tell_engine: Callable[[str], None]) -> None:
        self.request_id = request_id
        self._tell_engine = tell_engine
        self._pending: TokensEvent | None = None
        self._error: OstroError | None = None
        self._complete = False  # the engine has no more to say
        self._ended = False  # the reader has had it all, or wants no more
        self._wake = asyncio.Event()

    def push(self, event: TokensEvent) -> None:
        """Add what a step gave. The event is this stream's from then on."""
        if self._pending is None:
            self._pending = event
        else:
            _add(self._pending, event)
        self._complete = event.finish_reason is not None
        self._wake.set()

    def fail(self, error: OstroError) -> None:
        """End with an error. Tokens that came before it are still read first."""
        self._error = error
        self._complete = True
        self._wake.set()

    def __aiter__(self) -> TokenStream:
        return self

    async def __anext__(self) -> TokensEvent:
        if self._ended:
            raise StopAsyncIteration
        await self._wake.wait()
        if self._pending is not None:
            event, self._pending = self._pending, None
            self._ended = event.finish_reason is not None
            if self._error is None:
                self._wake.clear()
            return event
        self._ended = True
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    def abort(self) -> None:
        """Cancel the request if it is not finished. May be called again."""
        if not self._complete:
            self._complete = True
            self._tell_engine(self.request_id)
        self._ended = True
        self._pending = None
        self._wake.set()


def _add(pending: TokensEvent, event: TokensEvent) -> None:
    """Append in place: of a reader that stalls, copies would cost the square of its tokens, on everybody's loop."""
    pending.token_ids.extend(event.token_ids)
    if event.logprobs is not None:
        pending.logprobs = pending.logprobs or []
        pending.logprobs.extend(event.logprobs)
    pending.finish_reason = event.finish_reason
    pending.cached_tokens = max(pending.cached_tokens, event.cached_tokens)
    pending.error, pending.error_param = event.error, event.error_param
    pending.prompt_logprobs = pending.prompt_logprobs or event.prompt_logprobs
    pending.embedding = pending.embedding or event.embedding
