"""What a caller is sent: headers, whole answers, streams, and errors in either."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from starlette.types import Scope, Send

from ostro.core.errors import OstroError, StorageError
from ostro.core.money import usd
from ostro.gateway.calls import Call
from ostro.gateway.outward import outward
from ostro.storage.accounts import RateLimitError, Room
from ostro.web.errors import error_chunk, error_response
from ostro.web.message_errors import message_error
from ostro.web.response_events import StreamError
from ostro.web.sse import sse_data, sse_event

log = logging.getLogger("ostro.gateway")

_JSON = b"application/json"
_EVENTS = b"text/event-stream"


class Reply:
    """To one call. age_s: of the answer, where it is one that was kept."""

    def __init__(self, call: Call, scope: Scope, send: Send) -> None:
        self._call = call
        self._scope = scope
        self._send = send
        self.age_s = 0

    async def whole(self, status: int, data: bytes, more: Mapping[str, str]) -> None:
        headers = self._headers(_JSON, more)
        headers.append((b"content-length", str(len(data)).encode()))
        headers.append((b"x-ostro-cost-usd", usd(self._call.billing.charge).encode()))
        self._begins()
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": data})

    async def begin_stream(self, more: Mapping[str, str]) -> None:
        headers = self._headers(_EVENTS, more)
        headers += [(b"cache-control", b"no-cache, no-transform"), (b"x-accel-buffering", b"no")]
        self._begins()
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def event(self, event: bytes) -> None:
        await self._send({"type": "http.response.body", "body": event, "more_body": True})

    async def end_stream(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})

    async def fail(self, error: OstroError) -> None:
        """Settle for what was served, and say what happened, as a status or as the end of a stream."""
        call, error = self._call, outward(error)
        if error.status >= 500:
            log.warning("%s: %s", call.request_id, error.message)
        if call.billing.is_settled and not call.began:
            call.billing.forgive()
        elif not call.billing.is_settled:
            try:
                await call.billing.settle("error")
            except StorageError as trouble:
                log.error("%s: %s", call.request_id, trouble.message)
        if call.began:
            await self.event(self._last_words(error))
            await self.end_stream()
        else:
            await error_response(error)(self._scope, nothing, self._send)

    def _last_words(self, error: OstroError) -> bytes:
        """What ends a stream that has begun, as clients of its API read it."""
        path = self._call.asked.endpoint.path
        if path == "/v1/messages":
            return sse_event("error", message_error(error, self._call.request_id))
        if path == "/v1/responses":
            return sse_event("error", StreamError.of(error))
        return sse_data(error_chunk(error))

    def _begins(self) -> None:
        self._call.began = True
        self._call.first_byte = time.perf_counter() - self._call.started

    def _headers(self, kind: bytes, more: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
        call = self._call
        headers = [(b"content-type", kind), (b"x-ostro-call", call.billing.call_id.encode())]
        if call.kept is not None:
            headers.append((b"x-ostro-cache", b"hit"))
            headers.append((b"age", str(self.age_s).encode()))
        elif call.wish.reads or call.wish.keeps:
            headers.append((b"x-ostro-cache", b"miss"))
        if call.choice is not None:
            headers.append((b"x-ostro-node", call.choice.node.encode()))
            headers.append((b"x-ostro-reason", call.choice.reason.encode()))
        if call.billing.room is not None:
            headers += [(name.encode(), value.encode()) for name, value in _room_headers(call.billing.room).items()]
        return headers + [(name.encode(), value.encode("latin-1", "replace")) for name, value in more.items()]


async def refuse(error: OstroError, scope: Scope, send: Send) -> str:
    """A request that becomes no call; returns the code that it is told."""
    told = outward(error)
    response = error_response(told)
    if isinstance(error, RateLimitError):
        response.headers.update(_room_headers(error.room))
    await response(scope, nothing, send)
    return told.code


async def nothing() -> dict[str, Any]:
    """There is no more of the request."""
    return {"type": "http.disconnect"}


def _room_headers(room: Room) -> dict[str, str]:
    headers: dict[str, str] = {}
    reset = f"{room.reset_s:.0f}s"
    for of, limit, left in (
        ("requests", room.limits.requests_per_minute, room.requests_left),
        ("tokens", room.limits.tokens_per_minute, room.tokens_left),
    ):
        if limit is not None:
            headers |= {
                f"x-ratelimit-limit-{of}": str(limit),
                f"x-ratelimit-remaining-{of}": str(left),
                f"x-ratelimit-reset-{of}": reset,
            }
    return headers
