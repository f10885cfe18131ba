"""The models that a server answers for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple

from fastapi import Request
from starlette.types import Scope

from ostro.core.errors import InvalidRequestError, ModelNotFoundError
from ostro.core.request import EngineStats
from ostro.observability.residency import Residency
from ostro.server.pins import pins_of
from ostro.server.pool import Pool, PoolOptions
from ostro.server.served import ServedModel
from ostro.server.slot import Slot, SlotState
from ostro.web.disconnect import while_connected
from ostro.web.rate import Allowance

__all__ = ["ModelState", "Models", "ServedModel"]


class ModelState(NamedTuple):
    """state: "unloaded", "loading", "ready" or "failed". reason: why it is not ready; empty where it is."""

    state: str
    reason: str


class ModelInUseError(InvalidRequestError):
    """A model that requests are using cannot be unloaded."""

    status = 409
    code = "model_in_use"


class Models:
    """Served models by name; the first is the default.

    pool: how they share the node: the first is loaded when the server starts, the others when they are asked for.
    None loads all of them when the server starts, and keeps them.
    """

    def __init__(self, served: Mapping[str, ServedModel], pool: PoolOptions | None = None) -> None:
        if not served:
            raise ValueError("a server needs at least one model")
        self.served = dict(served)
        self._pool = None if pool is None else Pool(self.served.values(), pool)
        self._default = next(iter(self.served.values()))

    def find(self, name: str | None) -> ServedModel:
        """The model of that name, the first one for None. Raises ModelNotFoundError that lists what there is."""
        if name is None:
            return self._default
        model = self.served.get(name)
        if model is None:
            there = ", ".join(f"'{known}'" for known in self.served)
            error = ModelNotFoundError(f"There is no model '{name[:200]}' here. Served: {there}.", param="model")
            raise error
        return model

    async def use(self, request: Request, name: str | None) -> ServedModel:
        """The model of that name, loaded, until the answer to `request` is over.

        Call it after the request's body has been read: a client that leaves ends the wait. Raises
        ModelNotFoundError, NotReadyError, ClientGoneError.
        """
        model = self.find(name)
        request.state.model = model
        if self._pool is not None:
            pool, slot, pins = self._pool, self._pool.slots[model.name], pins_of(request)
            # A second pin of one request would wait behind a switch that waits for the first.
            if model.name not in pins and not pins.add_now(pool, slot):
                await while_connected(request, pins.add(pool, slot))
        model.ready_card()
        return model

    @asynccontextmanager
    async def using(self, name: str | None) -> AsyncIterator[ServedModel]:
        """The model of that name, loaded, for work that is not a request's.

        Long work should take it piece by piece: who holds a model keeps others from the memory.
        """
        model = self.find(name)
        if self._pool is None:
            model.ready_card()
            yield model
            return
        slot = self._pool.slots[model.name]
        await self._pool.pin(slot)
        try:
            model.ready_card()
            yield model
        finally:
            self._pool.unpin(slot)

    async def unload(self, name: str) -> None:
        """Free a model's memory until somebody asks for it. Raises ModelNotFoundError, ModelInUseError."""
        model = self.find(name)
        if self._pool is None:
            raise ModelInUseError("This server keeps its models loaded; start it with --idle-unload to have it differ.")
        if not await self._pool.unload(self._pool.slots[model.name]):
            raise ModelInUseError(f"The model '{name}' is in use. Try again when its requests are over.")

    def state(self, model: ServedModel) -> ModelState:
        """Where a model is between disk and memory."""
        slot = self._slot(model)
        if slot is not None and slot.state is not SlotState.READY:
            return _slot_state(slot)
        reason = model.engine.reason
        if not reason:
            return ModelState("ready", "")
        return ModelState("failed" if model.engine.failed else "loading", reason)

    def allowance(self, scope: Scope) -> Allowance | None:
        """What the model that a request uses can still take; a node's only model for requests that use none."""
        model = scope.get("state", {}).get("model")
        if model is None and len(self.served) == 1:
            model = self._default
        return None if model is None else Allowance.of(model.engine)

    def stats(self) -> dict[str, EngineStats]:
        """The newest snapshot of every engine."""
        return {name: model.engine.stats for name, model in self.served.items()}

    def residency(self) -> dict[str, Residency]:
        """Which models are in memory, and how often they came and went."""
        if self._pool is None:
            return {name: Residency(loaded=model.engine.card is not None) for name, model in self.served.items()}
        return {name: _residency(slot) for name, slot in self._pool.slots.items()}

    @contextmanager
    def to_probe(self) -> Iterator[list[ServedModel]]:
        """The models by which to tell whether the server is well, held in place meanwhile.

        In a pool that is the default one; when it was unloaded after it had worked, none: it comes back when asked for.
        Raises NotReadyError where it has not been loaded yet, or could not be.
        """
        slot = self._slot(self._default)
        if self._pool is None or slot is None:
            yield list(self.served.values())
            return
        self._pool.check_open()
        if slot.state is SlotState.FAILED:
            raise slot.failure()
        if slot.state is not SlotState.READY:
            if not slot.loads:
                self._default.ready_card()
            yield []
            return
        with self._pool.holding(slot):
            yield [self._default]

    async def first_load(self) -> None:
        """Wait until the models that are loaded at the start are, or the server goes on without.

        Raises what made loading fail where there is no other model.
        """
        if self._pool is None:
            await asyncio.gather(*(model.engine.wait_ready() for model in self.served.values()))
            return
        slot = self._pool.slots[self._default.name]
        if slot.work is not None:
            await asyncio.shield(slot.work)
        if slot.error is not None and len(self.served) == 1:
            raise slot.error

    def start(self) -> None:
        """Begin to load, and return at once."""
        if self._pool is not None:
            self._pool.loader.load(self._pool.slots[self._default.name])
            return
        for model in self.served.values():
            model.engine.start()

    async def drain(self, grace_s: float) -> bool:
        """Take nothing new and let what runs finish; False where some of it did not in `grace_s` seconds."""
        if self._pool is not None:
            self._pool.stop()
        return all(await asyncio.gather(*(model.engine.drain(grace_s) for model in self.served.values())))

    async def close(self) -> None:
        """End all engines."""
        if self._pool is not None:
            await self._pool.close()
        else:
            await asyncio.gather(*(model.engine.close() for model in self.served.values()))

    def _slot(self, model: ServedModel) -> Slot | None:
        return None if self._pool is None else self._pool.slots[model.name]


def _slot_state(slot: Slot) -> ModelState:
    match slot.state:
        case SlotState.FAILED:
            return ModelState("failed", slot.failure().message)
        case SlotState.LOADING:
            return ModelState("loading", slot.model.engine.reason)
        case _:
            return ModelState("unloaded", f"The model '{slot.name}' is loaded when it is asked for.")


def _residency(slot: Slot) -> Residency:
    return Residency(
        loaded=slot.state is SlotState.READY,
        bytes=slot.needs if slot.takes_memory else 0,
        loads=slot.loads,
        failures=slot.failures,
        unloads=dict(slot.unloads),
    )
