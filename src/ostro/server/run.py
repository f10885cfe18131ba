"""Runs an application until it is told to stop, and lets it finish what it began."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI

from ostro.core.errors import OstroError
from ostro.server.connections import HEADERS_S, ImpatientProtocol
from ostro.server.models import Models

log = logging.getLogger("ostro.server")

# For answers that are generated but not yet read by their clients.
_FLUSH_S = 5


def serve(
    app: FastAPI,
    listener: socket.socket,
    *,
    grace_s: float = 30.0,
    headers_s: float = HEADERS_S,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Serve what `create_app` made on a bound socket; answers from the start, before a model is loaded.

    The first SIGTERM or SIGINT drains: new requests are answered 503, running ones finish within `grace_s` seconds. A
    second one ends at once. Returns normally after either. `on_ready` is called when what is loaded at the start is
    loaded. A connection that does not bring a request's headers within `headers_s` seconds is closed.
    Raises what made a model fail to load, where the server is of no use without it.
    """
    config = uvicorn.Config(
        app,
        http=partial(ImpatientProtocol, headers_s=headers_s),  # type: ignore[arg-type]  # it is only ever called
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_FLUSH_S,
        lifespan="on",
    )
    server = _DrainingServer(config, app.state.context.models, grace_s, on_ready)
    server.run(sockets=[listener])
    if server.failure is not None:
        raise server.failure


class _DrainingServer(uvicorn.Server):
    """uvicorn closes its listener on the first signal; here the engines drain first, while it still answers."""

    def __init__(
        self,
        config: uvicorn.Config,
        models: Models,
        grace_s: float,
        on_ready: Callable[[], None] | None,
    ) -> None:
        super().__init__(config)
        self.failure: OstroError | None = None
        self._models = models
        self._grace_s = grace_s
        self._on_ready = on_ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watching: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._watching = asyncio.create_task(self._watch_loading())

    async def _watch_loading(self) -> None:
        """A model that never loads ends the server: whoever started it should hear of it."""
        try:
            await self._models.first_load()
        except OstroError as error:
            if self._draining is None:
                self.failure = error
                self.should_exit = True
        else:
            if self._on_ready is not None and self._draining is None:
                self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the base class has it
        """Called as a signal handler. The signal is not kept for uvicorn to raise again: a drained exit is 0."""
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
        if not await self._models.drain(self._grace_s):
            log.warning("Some requests did not finish in %g s and are dropped.", self._grace_s)
            await self._models.close()
        self.should_exit = True
