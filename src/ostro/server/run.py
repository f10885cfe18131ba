"""Runs an application until it is told to stop, and lets it finish what it began."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial

import uvicorn
from fastapi import FastAPI

from ostro.core.errors import OstroError
from ostro.server.models import Models
from ostro.web.connections import HEADERS_S, ImpatientProtocol
from ostro.web.draining import FLUSH_S, DrainingServer

log = logging.getLogger("ostro.server")


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
        timeout_graceful_shutdown=FLUSH_S,
        lifespan="on",
    )
    server = _Server(config, app.state.context.models, grace_s, on_ready)
    server.run(sockets=[listener])
    if server.failure is not None:
        raise server.failure


class _Server(DrainingServer):
    """The engines drain first."""

    def __init__(
        self,
        config: uvicorn.Config,
        models: Models,
        grace_s: float,
        on_ready: Callable[[], None] | None,
    ) -> None:
        super().__init__(config, grace_s)
        self.failure: OstroError | None = None
        self._models = models
        self._on_ready = on_ready
        self._watching: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._watching = asyncio.create_task(self._watch_loading())

    async def _watch_loading(self) -> None:
        """A model that never loads ends the server: whoever started it should hear of it."""
        try:
            await self._models.first_load()
        except OstroError as error:
            if not self.is_draining:
                self.failure = error
                self.should_exit = True
        else:
            if self._on_ready is not None and not self.is_draining:
                self._on_ready()

    async def drain(self) -> None:
        if not await self._models.drain(self.grace_s):
            log.warning("Some requests did not finish in %g s and are dropped.", self.grace_s)
            await self._models.close()
