"""A server that finishes what it began before it ends."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from abc import abstractmethod
from types import FrameType

import uvicorn

log = logging.getLogger("ostro.web")

# For answers that are made but not yet read by their clients.
FLUSH_S = 5


class DrainingServer(uvicorn.Server):
    """uvicorn closes its listener on the first signal; this one drains first, while it still answers. A second signal
    ends it at once."""

    def __init__(self, config: uvicorn.Config, grace_s: float) -> None:
        super().__init__(config)
        self.grace_s = grace_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    @abstractmethod
    async def drain(self) -> None:
        """Take nothing new, and let what runs finish within `grace_s` seconds."""

    @property
    def is_draining(self) -> bool:
        return self._draining is not None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the base class has it
        """Called as a signal handler. The signal is not kept for uvicorn to raise again: a drained exit is 0."""
        if self._loop is None or self.is_draining:
            self.should_exit = True
            self.force_exit = True
        else:
            self._loop.call_soon_threadsafe(self._start_drain, signal.Signals(sig).name)

    def _start_drain(self, name: str) -> None:
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain(name))

    async def _drain(self, name: str) -> None:
        log.info("%s: finishing what runs, at most %g s.", name, self.grace_s)
        await self.drain()
        self.should_exit = True
