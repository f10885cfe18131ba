"""Runs a gateway until it is told to stop, and lets it finish what it began."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ostro.gateway.app import Gateway

log = logging.getLogger("ostro.gateway")

HEADERS_S = 30.0
_FLUSH_S = 5


class ImpatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which waits for ever for the end of a request's headers; this one waits `headers_s`.

    The time runs from where the connection opens, or from the first byte of a later request.
    """

    def __init__(self, *args: Any, headers_s: float = HEADERS_S, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.headers_s = headers_s
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # asyncio types it wider than a server is given
        super().connection_made(transport)
        self._wait()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

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


def serve_gateway(
    gateway: Gateway,
    listener: socket.socket,
    *,
    grace_s: float = 30.0,
    headers_s: float = HEADERS_S,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Serve on a bound socket. The first SIGTERM or SIGINT lets running calls finish within `grace_s` seconds and takes
    no new connections; a second one ends at once. Returns normally after either."""
    config = uvicorn.Config(
        gateway,
        http=partial(ImpatientProtocol, headers_s=headers_s),  # type: ignore[arg-type]  # it is only ever called
        loop="uvloop",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here depends on where a request says that it comes from
        timeout_graceful_shutdown=_FLUSH_S,
        lifespan="on",
    )
    _Server(config, gateway, grace_s, on_ready).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Drains before uvicorn closes its listener."""

    def __init__(
        self, config: uvicorn.Config, gateway: Gateway, grace_s: float, on_ready: Callable[[], None] | None
    ) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._grace_s = grace_s
        self._on_ready = on_ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self._on_ready is not None and not self.should_exit:
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the base class has it
        if self._loop is None or self._draining is not None:
            self.should_exit = True
            self.force_exit = True
        else:
            self._loop.call_soon_threadsafe(self._start_drain, signal.Signals(sig).name)

    def _start_drain(self, name: str) -> None:
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain(name))

    async def _drain(self, name: str) -> None:
        log.info("%s: finishing what runs, at most %g s.", name, self._grace_s)
        if not await self._gateway.drain(self._grace_s):
            log.warning("Some calls did not finish in %g s and are dropped; they are charged as served.", self._grace_s)
        self.should_exit = True
