"""Runs a gateway until it is told to stop, and lets it finish what it began."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from functools import partial

import uvicorn

from ostro.gateway.app import Gateway
from ostro.web.connections import HEADERS_S, QuickImpatientProtocol
from ostro.web.draining import FLUSH_S, DrainingServer

log = logging.getLogger("ostro.gateway")


def serve_gateway(
    gateway: Gateway,
    listener: socket.socket,
    *,
    grace_s: float = 30.0,
    headers_s: float = HEADERS_S,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Serve on a bound socket. The first SIGTERM or SIGINT lets running calls finish within `grace_s` seconds and
    answers new ones 503; a second one ends at once. Returns normally after either."""
    config = uvicorn.Config(
        gateway,
        http=partial(QuickImpatientProtocol, headers_s=headers_s),  # type: ignore[arg-type]  # it is only ever called
        loop="uvloop",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here depends on where a request says that it comes from
        timeout_graceful_shutdown=FLUSH_S,
        lifespan="on",
    )
    _Server(config, gateway, grace_s, on_ready).run(sockets=[listener])


class _Server(DrainingServer):
    def __init__(
        self, config: uvicorn.Config, gateway: Gateway, grace_s: float, on_ready: Callable[[], None] | None
    ) -> None:
        super().__init__(config, grace_s)
        self._gateway = gateway
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._on_ready is not None and not self.should_exit:
            self._on_ready()

    async def drain(self) -> None:
        if not await self._gateway.context.answering.drain(self.grace_s):
            log.warning("Some calls did not finish in %g s and are dropped; they are charged as served.", self.grace_s)
