"""One model of a pool: whether it is loaded, who holds it and who waits for it."""

from __future__ import annotations

import asyncio
import enum
import time
from collections import Counter

from ostro.core.errors import NotReadyError, OstroError
from ostro.core.footprint import Footprint
from ostro.core.request import ModelCard
from ostro.server.served import ServedModel

# Unused for so long, a model is idle.
_GAP_S = 0.5


class SlotState(enum.Enum):
    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    FAILED = "failed"


class LoadFailedError(NotReadyError):
    """A model did not load, or died for good, and is left alone for a while."""

    code = "load_failed"


class Slot:
    """State and counts of one model. The pool decides; nothing here waits for anything.

    needs: bytes that it takes, or is expected to. pins: uses that are not over. kept_until: before that it gives way
    to another model only when it is idle. work: the newest loading or unloading. Times are `time.monotonic`'s
    seconds.
    """

    def __init__(self, model: ServedModel, footprint: Footprint | None) -> None:
        self.model = model
        self.footprint = footprint
        self.needs = 0 if footprint is None else footprint.total
        self.state = SlotState.UNLOADED
        self.pins = 0
        self.turns: list[asyncio.Future[None]] = []
        self.last_used = 0.0
        self.kept_until = 0.0
        self.retry_at = 0.0
        self.error: OstroError | None = None
        self.idle_timer: asyncio.TimerHandle | None = None
        self.work: asyncio.Task[None] | None = None
        self.loads = 0
        self.failures = 0
        self.unloads: Counter[str] = Counter()

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def takes_memory(self) -> bool:
        return self.state in (SlotState.LOADING, SlotState.READY, SlotState.UNLOADING)

    def evictable_in(self, now: float) -> float:
        """Seconds until it may be told to give way to another model; 0 or less is now."""
        kept = self.kept_until - now
        # Clients that ask one thing after another leave gaps, in which it is not idle.
        return kept if self.pins else min(kept, self.last_used + _GAP_S - now)

    def pin(self) -> None:
        self.pins += 1
        self.last_used = time.monotonic()

    def unpin(self) -> None:
        self.pins -= 1
        self.last_used = time.monotonic()

    def grant(self) -> None:
        """Give it to everybody who waits."""
        for turn in self.turns:
            if not turn.done():
                self.pin()
                turn.set_result(None)
        self.turns.clear()

    def refuse(self, error: OstroError) -> None:
        """Tell everybody who waits that there is nothing to wait for."""
        for turn in self.turns:
            if not turn.done():
                turn.set_exception(error)
        self.turns.clear()

    def loaded(self, card: ModelCard, seconds: float) -> None:
        """It loaded in so many seconds, and stays at least as long: switching takes at most half of the time."""
        self.state = SlotState.READY
        self.error = None
        self.loads += 1
        self.last_used = time.monotonic()
        self.kept_until = self.last_used + seconds
        if self.footprint is None:
            return
        self.needs = card.weight_bytes + self.footprint.kv + self.footprint.overhead
        if not card.device.startswith("cuda"):  # What is resident in main memory says nothing about a GPU's.
            self.needs = max(self.needs, self.model.engine.resident_bytes or 0)

    def failed(self, error: OstroError, pause_s: float) -> None:
        """It did not load, or died for good. Another try is made after `pause_s` seconds."""
        self.state = SlotState.FAILED
        self.error = error
        self.failures += 1
        self.retry_at = time.monotonic() + pause_s

    def failure(self) -> LoadFailedError:
        """What a request hears while the model is not tried again."""
        because = "" if self.error is None else f" {self.error.message}"
        pause = max(0.0, self.retry_at - time.monotonic())
        message = f"The model '{self.name}' could not be loaded:{because} It is tried again in {pause:.0f} s."
        return LoadFailedError(message, retry_after=pause)
