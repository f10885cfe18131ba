"""Connections that begin a request and do not go on."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS_S = 30.0


class _Impatience:
    """For uvicorn's protocols, which wait for ever for the end of a request's headers; these wait `headers_s`.

    The time runs from where the connection opens, or from the first byte of a later request; between requests
    uvicorn's own keep-alive time counts. Bodies have their limit in `web.body`.
    """

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport

    def __init__(self, *args: Any, headers_s: float = HEADERS_S, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.headers_s = headers_s
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)  # type: ignore[misc]  # of the protocol that this is mixed into
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)  # type: ignore[misc]  # as above

    def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(self.headers_s, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class ImpatientProtocol(_Impatience, H11Protocol):  # type: ignore[misc]  # asyncio types transports wider than a server is given
    """A node's."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._wait()
        else:
            self._stop_waiting()


class QuickImpatientProtocol(_Impatience, HttpToolsProtocol):  # type: ignore[misc]  # as above
    """A gateway's: its parser is C."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()
