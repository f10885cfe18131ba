"""A model's way into memory and out of it, one at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from ostro.core.errors import NotReadyError, OstroError
from ostro.server.slot import Slot, SlotState

log = logging.getLogger("ostro.server")


class Loader:
    """Loads and unloads slots in tasks of their own; a slot's newest is its `work`.

    retry_s: pause after a load that failed. settled: called with a slot that is loaded, unloaded or failed now.
    closing: engines are being ended, so that a load that ends is no failure.
    """

    def __init__(self, retry_s: float, settled: Callable[[Slot], None]) -> None:
        self.closing = False
        self._retry_s = retry_s
        self._settled = settled

    def load(self, slot: Slot) -> asyncio.Task[None]:
        """Begin to load a model that is not, where there is room for it."""
        slot.state = SlotState.LOADING
        log.info("Loading '%s'.", slot.name)
        return _spawn(slot, self._load(slot))

    def unload(self, slot: Slot, why: str) -> asyncio.Task[None]:
        """Begin to unload a model that nobody uses. why: "evicted", "idle" or "asked"."""
        slot.state = SlotState.UNLOADING
        return _spawn(slot, self._unload(slot, why))

    def give_up(self, slot: Slot) -> asyncio.Task[None]:
        """Put away a model whose engine died and does not start again by itself; a pause begins."""
        slot.state = SlotState.UNLOADING
        return _spawn(slot, self._give_up(slot))

    async def _load(self, slot: Slot) -> None:
        started = time.monotonic()
        engine = slot.model.engine
        engine.start()
        try:
            card = await engine.wait_ready()
        except OstroError as error:
            await engine.close()
            if not self.closing:
                log.error("The model '%s' could not be loaded: %s", slot.name, error.message)
            slot.failed(error, self._retry_s)
            slot.refuse(slot.failure())
        else:
            slot.loaded(card, time.monotonic() - started)
            log.info("Loaded '%s'; it takes %d MiB.", slot.name, slot.needs // 2**20)
        self._settled(slot)

    async def _unload(self, slot: Slot, why: str) -> None:
        await slot.model.engine.close()
        slot.state = SlotState.UNLOADED
        slot.unloads[why] += 1
        log.info("Unloaded '%s' (%s).", slot.name, why)
        self._settled(slot)

    async def _give_up(self, slot: Slot) -> None:
        error = NotReadyError(slot.model.engine.reason)
        await slot.model.engine.close()
        slot.failed(error, self._retry_s)
        self._settled(slot)


def _spawn(slot: Slot, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    slot.work = asyncio.get_running_loop().create_task(work)
    return slot.work
