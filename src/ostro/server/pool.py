"""Several models in one node: loaded when they are asked for, within an amount of memory, given up when idle.

Models that wait to be loaded are served in the order in which they were first asked for. The one whose turn it is takes
the place of idle models, the longest unused first. Where those are not enough, busy ones are told to retire: what runs
on them finishes, what comes for them later queues behind the switch. So nothing is dropped and nobody starves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from ostro.core.errors import ConfigError, NotReadyError
from ostro.core.footprint import Footprint
from ostro.server.loading import Loader
from ostro.server.served import ServedModel
from ostro.server.slot import Slot, SlotState

_MIB = 2**20


@dataclass(frozen=True)
class PoolOptions:
    """How models share a node.

    budget: bytes that loaded models may take together; None does not count. footprints: what each takes, by name.
    idle_unload_s: unused for so many seconds, a model is unloaded; 0 keeps it. load_timeout_s: how long a request
    waits for its model. retry_s: pause after a load that failed.
    """

    budget: int | None = None
    footprints: Mapping[str, Footprint] = field(default_factory=dict)
    idle_unload_s: float = 0.0
    load_timeout_s: float = 300.0
    retry_s: float = 10.0

    def __post_init__(self) -> None:
        for name in ("load_timeout_s", "retry_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)}.", param=name)
        if not self.idle_unload_s >= 0:
            raise ConfigError(f"idle_unload_s must be 0 or more, not {self.idle_unload_s}.", param="idle_unload_s")


class Pool:
    """Raises ConfigError for a model that the budget could never hold. Use from one event loop."""

    def __init__(self, models: Iterable[ServedModel], options: PoolOptions) -> None:
        self.options = options
        self.slots = {model.name: Slot(model, options.footprints.get(model.name)) for model in models}
        self.loader = Loader(options.retry_s, self._settled)
        self._wanted: list[Slot] = []
        self._retiring: set[Slot] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        for slot in self.slots.values():
            self._refuse_too_large(slot)

    def check_open(self) -> None:
        """Raises NotReadyError once the server is shutting down."""
        if self._closed:
            raise _shutting_down()

    def pin_now(self, slot: Slot) -> bool:
        """Pin a model that can be used at once; False where there is something to wait for. Raises NotReadyError."""
        self.check_open()
        if slot.state is SlotState.READY and slot.model.engine.failed:
            self.loader.give_up(slot)
        if slot.state is not SlotState.READY or slot in self._retiring:
            return False
        slot.pin()
        return True

    async def pin(self, slot: Slot) -> None:
        """Wait until a model is loaded and pin it; call `unpin` when its use is over.

        Raises NotReadyError: it did not load, its turn did not come in time, or the server is shutting down.
        """
        if self.pin_now(slot):
            return
        turn = asyncio.get_running_loop().create_future()
        slot.turns.append(turn)
        if slot not in self._wanted:
            self._wanted.append(slot)
        self._advance()
        try:
            await asyncio.wait({turn}, timeout=self.options.load_timeout_s)
        except asyncio.CancelledError:
            self._leave(slot, turn)
            raise
        if not turn.done():
            self._leave(slot, turn)
            raise self._too_slow(slot)
        turn.result()

    def unpin(self, slot: Slot) -> None:
        """A use is over."""
        slot.unpin()
        self._released(slot)

    async def unload(self, slot: Slot) -> bool:
        """Unload a model that nobody uses; False where somebody does, or it is being loaded. True once it is gone."""
        if slot.state is SlotState.UNLOADING and slot.work is not None:
            await asyncio.shield(slot.work)
        if slot.state in (SlotState.UNLOADED, SlotState.FAILED):
            return True
        if slot.state is not SlotState.READY or slot.pins:
            return False
        await asyncio.shield(self.loader.unload(slot, "asked"))
        return True

    @contextmanager
    def holding(self, slot: Slot) -> Iterator[None]:
        """Keep a loaded model where it is, without that counting as a use."""
        slot.pins += 1
        try:
            yield
        finally:
            slot.pins -= 1
            self._released(slot)

    def stop(self) -> None:
        """Take nothing new. Who waits for a model hears that the server is shutting down."""
        self._closed = self.loader.closing = True
        for slot in self.slots.values():
            slot.refuse(_shutting_down())
        self._wanted.clear()

    async def close(self) -> None:
        """End all engines, loaded or on the way."""
        self.stop()
        for timer in (self._timer, *(slot.idle_timer for slot in self.slots.values())):
            if timer is not None:
                timer.cancel()
        await asyncio.gather(*(slot.model.engine.close() for slot in self.slots.values()))
        await asyncio.gather(*(slot.work for slot in self.slots.values() if slot.work is not None))

    def _released(self, slot: Slot) -> None:
        if slot.pins == 0:
            self._settled(slot)

    def _settled(self, slot: Slot) -> None:
        self._watch_idle(slot)
        self._advance()

    def _advance(self) -> None:
        """Do what can be done for those who wait. Called whenever something has changed."""
        if self._closed:
            return
        if self._timer is not None:
            self._timer.cancel()
        before, self._retiring = self._retiring, set()
        blocked = False
        for slot in list(self._wanted):
            if slot.state is SlotState.READY and slot not in self._retiring:
                slot.grant()
            elif slot.state is SlotState.FAILED and time.monotonic() < slot.retry_at:
                slot.refuse(slot.failure())
            elif slot.state is SlotState.UNLOADING:
                blocked = True
            elif not blocked and not slot.takes_memory:
                blocked = not self._make_room(slot, before)  # Whoever waits longest comes first.
                if not blocked:
                    self.loader.load(slot)
        self._wanted = [slot for slot in self._wanted if slot.turns]
        self._trim()

    def _make_room(self, slot: Slot, before: set[Slot]) -> bool:
        """Whether a model fits now; begins to free memory for it where it does not.

        before: who was retiring; it goes on to, so that a retired model is not spared because it was just used.
        """
        if self.options.budget is None:
            return True
        needs = min(slot.needs, self.options.budget)
        if needs <= self._free():
            return True
        coming = self._free() + sum(s.needs for s in self.slots.values() if s.state is SlotState.UNLOADING)
        ready = [s for s in self.slots.values() if s.state is SlotState.READY]
        now = time.monotonic()
        kept = []
        for victim in sorted(ready, key=lambda s: (s.pins > 0, s not in before, s.last_used)):
            if coming >= needs:
                break
            coming += victim.needs
            if victim.evictable_in(now) > 0:
                kept.append(victim.evictable_in(now))
            elif victim.pins == 0:
                self.loader.unload(victim, "evicted")
            else:
                self._retiring.add(victim)
        if kept:
            self._timer = asyncio.get_running_loop().call_later(min(kept), self._advance)
        return False

    def _free(self) -> int:
        taken = sum(slot.needs for slot in self.slots.values() if slot.takes_memory)
        return (self.options.budget or 0) - taken

    def _trim(self) -> None:
        """Models that turned out larger than expected: unload idle ones until the others fit. One may stay alone."""
        if self.options.budget is None:
            return
        over = -self._free() - sum(s.needs for s in self.slots.values() if s.state is SlotState.UNLOADING)
        ready = [slot for slot in self.slots.values() if slot.state is SlotState.READY]
        for slot in sorted(ready, key=lambda slot: slot.last_used)[:-1]:
            if over > 0 and slot.pins == 0:
                over -= slot.needs
                self.loader.unload(slot, "evicted")

    def _leave(self, slot: Slot, turn: asyncio.Future[None]) -> None:
        """Somebody does not wait any longer; the turn may have come in that very moment."""
        if not turn.done():
            slot.turns.remove(turn)
            turn.cancel()
        elif turn.exception() is None:
            self.unpin(slot)
        self._wanted = [slot for slot in self._wanted if slot.turns]
        self._advance()

    def _watch_idle(self, slot: Slot) -> None:
        """See to it that it is unloaded once it was unused for long enough."""
        if self.options.idle_unload_s and slot.idle_timer is None and not self._closed:
            loop = asyncio.get_running_loop()
            slot.idle_timer = loop.call_later(self.options.idle_unload_s, self._unload_if_idle, slot)

    def _unload_if_idle(self, slot: Slot) -> None:
        slot.idle_timer = None
        if slot.state is not SlotState.READY or slot.pins:
            return  # The end of the last use watches again.
        left = slot.last_used + self.options.idle_unload_s - time.monotonic()
        if left > 0:
            loop = asyncio.get_running_loop()
            slot.idle_timer = loop.call_later(left, self._unload_if_idle, slot)
        else:
            self.loader.unload(slot, "idle")

    def _refuse_too_large(self, slot: Slot) -> None:
        if self.options.budget is not None and slot.needs > self.options.budget:
            raise ConfigError(
                f"The model '{slot.name}' would take {slot.needs / _MIB:.0f} MiB, more than the budget of "
                f"{self.options.budget / _MIB:.0f} MiB. Raise --memory-budget, or lower --kv-memory.",
                param="memory_budget",
            )

    def _too_slow(self, slot: Slot) -> NotReadyError:
        seconds = self.options.load_timeout_s
        if slot.state is SlotState.LOADING:
            why = "is still being loaded"
        else:
            why = "waits for memory that other models use"
        message = f"The model '{slot.name}' {why} after {seconds:g} s. Try again later."
        return NotReadyError(message, retry_after=slot.model.engine.retry_after)


def _shutting_down() -> NotReadyError:
    return NotReadyError("The server is shutting down and takes no new requests.")
