"""Server-sent events: `data: {json}` lines, comment lines as heartbeat, `data: [DONE]` at the end."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import anyio
import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

HEARTBEAT_S = 10.0

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
_ENCODER = msgspec.json.Encoder()


def sse_data(payload: Any) -> bytes:
    """One event. JSON as msgspec writes it holds no raw line breaks, so one `data:` line carries it.

    >>> sse_data({"a": 1})
    b'data: {"a":1}\\n\\n'
    """
    return b"data: " + _ENCODER.encode(payload) + b"\n\n"


def sse_event(name: str, payload: Any) -> bytes:
    """One event with a name of its own, as APIs have them whose events are of several kinds.

    >>> sse_event("ping", {"a": 1})
    b'event: ping\\ndata: {"a":1}\\n\\n'
    """
    return b"event: " + name.encode() + b"\ndata: " + _ENCODER.encode(payload) + b"\n\n"


class EventStreamResponse(Response):
    """Streams ready-made frames until they end or the client goes away; `close` is called after either.

    A stream silent for `heartbeat_s` seconds gets `heartbeat`, so that proxies keep it open: a comment line, or the
    event that an API has for it.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        frames: AsyncIterator[bytes],
        *,
        close: Callable[[], None],
        headers: Mapping[str, str] | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        heartbeat: bytes = KEEP_ALIVE,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.frames = frames
        self.close = close
        self.heartbeat_s = heartbeat_s
        self.heartbeat = heartbeat
        self._last_sent = 0.0
        # no-transform and X-Accel-Buffering: a proxy that compresses or buffers would hold tokens back.
        self.init_headers({"cache-control": "no-cache, no-transform", "x-accel-buffering": "no", **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's interface
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async with anyio.create_task_group() as group:
                group.start_soon(self._until_disconnect, receive, group.cancel_scope)
                group.start_soon(self._beat, send)
                async for frame in self.frames:
                    self._last_sent = time.monotonic()
                    await send({"type": "http.response.body", "body": frame, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                group.cancel_scope.cancel()
        finally:
            self.close()

    async def _until_disconnect(self, receive: Receive, scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async def _beat(self, send: Send) -> None:
        while True:
            await anyio.sleep(self.heartbeat_s)
            if time.monotonic() - self._last_sent >= self.heartbeat_s:
                await send({"type": "http.response.body", "body": self.heartbeat, "more_body": True})
