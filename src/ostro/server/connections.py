"""Connections that begin a request and do not go on."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_S = 30.0


class ImpatientProtocol(H11Protocol):
    """uvicorn's protocol, which waits for ever for the end of a request's headers; this one waits `headers_s`.

    The time runs from where the connection opens, or from the first byte of a later request; between requests
    uvicorn's own keep-alive time counts. Bodies have their limit in `web.body`.
    """

    def __init__(self, *args: Any, headers_s: float = HEADERS_S, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.headers_s = headers_s
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # asyncio types it wider than a server is given
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._wait()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(self.headers_s, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
