"""Who holds a model, without processes: what one request, or work without a request, may do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from ostro.core.errors import ConfigError, NotReadyError
from ostro.core.footprint import Footprint
from ostro.core.protocols import EventStream
from ostro.core.request import EngineRequest, EngineStats, ModelCard
from ostro.server.models import ModelInUseError, Models, ServedModel
from ostro.server.pins import ReleasePins
from ostro.server.pool import PoolOptions
from ostro.server.slot import Slot

CARD = ModelCard(
    name="m",
    architecture="none",
    parameters=1,
    weight_bytes=1,
    dtype="float32",
    device="cuda",
    context=8,
    kv_tokens=8,
)


class Engine:
    """Loads at once, and takes no requests."""

    def __init__(self) -> None:
        self.card: ModelCard | None = None
        self.stats = EngineStats()
        self.reason = "not loaded"
        self.retry_after = 1.0
        self.failed = False
        self.resident_bytes = None
        self.starts = 0

    def submit(self, request: EngineRequest) -> EventStream:
        raise NotReadyError(self.reason)

    def start(self) -> None:
        self.starts += 1

    async def wait_ready(self) -> ModelCard:
        await asyncio.sleep(0.01)
        self.card, self.reason = CARD, ""
        return CARD

    async def drain(self, grace_s: float) -> bool:
        return True

    async def close(self) -> None:
        self.card, self.reason = None, "not loaded"


def _models(**options: float) -> Models:
    served = {name: ServedModel(name, Engine(), None) for name in ("a", "b")}
    sizes = dict.fromkeys(served, Footprint(weights=1, kv=1, overhead=0))
    return Models(served, PoolOptions(budget=3, footprints=sizes, **options))


def _run(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 20))


async def _answer(handler: Callable[[Request], Coroutine[None, None, None]]) -> None:
    """Run a handler as the application runs a route: as a request with `ReleasePins` around it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await handler(Request(scope, receive, send))

    async def receive() -> Message:
        await asyncio.sleep(60)
        raise AssertionError("nobody leaves here")

    async def send(message: Message) -> None:
        return None

    await ReleasePins(app)({"type": "http", "headers": []}, receive, send)


def test_a_request_may_use_its_model_twice_while_another_waits_for_the_memory() -> None:
    async def scenario() -> None:
        models = _models()
        models.start()
        await models.first_load()
        waiting: list[asyncio.Task[None]] = []

        async def take_b() -> None:
            async with models.using("b"):
                pass

        async def handler(request: Request) -> None:
            await models.use(request, "a")
            waiting.append(asyncio.create_task(take_b()))
            await asyncio.sleep(0.1)
            await asyncio.wait_for(models.use(request, "a"), 1)  # queued, it would wait for itself
            assert not waiting[0].done()

        await _answer(handler)
        await waiting[0]
        assert models.state(models.find("a")).state == "unloaded"
        await models.close()

    _run(scenario)


def test_pins_end_with_the_answer_even_with_one_that_fails() -> None:
    async def scenario() -> None:
        models = _models()
        models.start()

        async def fails(request: Request) -> None:
            await models.use(request, "a")
            with pytest.raises(ModelInUseError):
                await models.unload("a")
            raise ValueError("after it was taken")

        with pytest.raises(ValueError, match="after it was taken"):
            await _answer(fails)
        await models.unload("a")
        await models.close()

    _run(scenario)


def test_using_holds_a_model_and_gives_it_back() -> None:
    async def scenario() -> None:
        models = _models(load_timeout_s=0.1)
        async with models.using("b") as model:
            assert model.name == "b"
            with pytest.raises(NotReadyError, match="memory that other models use"):
                async with models.using("a"):
                    pass
        async with models.using("a"):
            pass
        assert [served.engine.starts for served in models.served.values()] == [1, 1]  # type: ignore[attr-defined]  # a fake engine counts
        await models.close()
        with pytest.raises(NotReadyError, match="shutting down"):
            async with models.using("a"):
                pass

    _run(scenario)


def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        models = _models()
        for delay in (0.0, 0.005, 0.01, 0.011, 0.012, 0.013):

            async def take(name: str) -> None:
                async with models.using(name):
                    pass

            tasks = [asyncio.create_task(take(name)) for name in "abab"]
            await asyncio.sleep(delay)
            for task in tasks[:3]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for name in ("a", "b"):
            await models.unload(name)  # nobody holds it
        await models.close()

    _run(scenario)


def test_a_wait_that_is_cancelled_in_the_moment_of_its_turn_gives_the_turn_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grant = Slot.grant

    async def scenario() -> None:
        models = _models()

        async def take() -> None:
            async with models.using("a"):
                raise AssertionError("it was cancelled before")

        task = asyncio.create_task(take())

        def grant_and_cancel(slot: Slot) -> None:
            grant(slot)
            task.cancel()

        monkeypatch.setattr(Slot, "grant", grant_and_cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        await models.unload("a")
        await models.close()

    _run(scenario)


@pytest.mark.parametrize("wrong", [{"load_timeout_s": 0.0}, {"retry_s": -1.0}, {"idle_unload_s": float("nan")}])
def test_options_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError) as caught:
        PoolOptions(**wrong)  # type: ignore[arg-type]  # wrong on purpose
    assert caught.value.param in wrong
