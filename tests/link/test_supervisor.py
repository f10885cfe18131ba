"""The supervisor with real child processes: streams, aborts, deaths, restarts, memory, drains."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_engine import CRASH, EAT, RAISE, SLOW

from ostro.core.errors import CheckpointError, EngineDeadError, InvalidRequestError, NotReadyError, QueueFullError
from ostro.core.options import EngineOptions
from ostro.core.request import EngineRequest
from ostro.core.sampling import SamplingParams
from ostro.link import EngineProcess, EngineState, RestartPolicy
from ostro.link.stream import TokenStream

FAST = RestartPolicy(first_pause_s=0.05, longest_pause_s=0.1, max_failures=3)


@asynccontextmanager
async def engine(model: str = "m", memory_limit: int | None = None, **options: Any) -> AsyncIterator[EngineProcess]:
    process = EngineProcess(
        "fake_engine",
        EngineOptions(model=model, name="fake", **options),
        memory_limit=memory_limit,
        restart=FAST,
    )
    process.start()
    try:
        yield process
    finally:
        await process.close()


def request(request_id: str, prompt: list[int], max_tokens: int = 8) -> EngineRequest:
    return EngineRequest(
        request_id=request_id, prompt_token_ids=prompt, params=SamplingParams(max_tokens=max_tokens), seed=0
    )


async def tokens(stream: TokenStream) -> list[int]:
    return [token async for event in stream for token in event.token_ids]


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 120))


def test_streams_are_routed_to_their_requests() -> None:
    async def scenario() -> None:
        async with engine() as process:
            with pytest.raises(NotReadyError, match="loading"):
                process.submit(request("early", [7]))
            card = await process.wait_ready()
            assert card.name == "fake"
            streams = [process.submit(request(f"r{i}", [7, 100 + i], 4)) for i in range(20)]
            answers = await asyncio.gather(*(tokens(stream) for stream in streams))
            assert answers == [[7, 100 + i, 7, 100 + i] for i in range(20)]
            assert process.stats.generation_tokens == 80

    run(scenario)


def test_a_slow_reader_gets_merged_events() -> None:
    async def scenario() -> None:
        async with engine() as process:
            await process.wait_ready()
            stream = process.submit(request("r", [7, 8, 9], 9))
            await until(lambda: process.stats.generation_tokens == 9)
            event = await anext(stream)
            assert event.token_ids == [7, 8, 9] * 3
            assert event.finish_reason == "length"
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    run(scenario)


def test_closing_a_stream_frees_the_request_at_once() -> None:
    async def scenario() -> None:
        async with engine() as process:
            await process.wait_ready()
            stream = process.submit(request("r", [7], 100_000))
            await anext(stream)
            await until(lambda: process.stats.running == 1)
            stream.abort()
            await until(lambda: process.stats.running == 0, 10.0)
            assert process.stats.generation_tokens < 10_000
            assert await process.drain(0.0)

    run(scenario)


def test_what_the_engine_refuses_reaches_its_own_request_only() -> None:
    async def scenario() -> None:
        async with engine(max_num_seqs=1, max_waiting=1, max_model_len=16) as process:
            await process.wait_ready()
            running = [process.submit(request(f"r{i}", [7], 50)) for i in range(2)]
            refused = process.submit(request("one too many", [7]))
            with pytest.raises(QueueFullError, match="full") as full:
                await tokens(refused)
            assert full.value.retry_after == 2.5
            with pytest.raises(InvalidRequestError, match="16") as long:
                await tokens(process.submit(request("long", [7] * 16)))
            assert long.value.code == "context_length_exceeded"
            assert long.value.param == "messages"
            assert [len(answer) for answer in await asyncio.gather(*map(tokens, running))] == [50, 50]

    run(scenario)


@pytest.mark.parametrize("how", [CRASH, RAISE, "kill"])
def test_death_fails_what_runs_and_the_engine_comes_back(how: int | str) -> None:
    async def scenario() -> None:
        async with engine() as process:
            await process.wait_ready()
            stream = process.submit(request("r", [SLOW], 100_000))
            await anext(stream)
            died = time.monotonic()
            first = process.pid
            assert first is not None
            if how == "kill":
                os.kill(first, signal.SIGKILL)
            else:
                with pytest.raises(EngineDeadError):
                    await tokens(process.submit(request("bad", [int(how)])))
            with pytest.raises(EngineDeadError, match="told to fail" if how == RAISE else "SIGKILL"):
                await tokens(stream)
            assert time.monotonic() - died < 10.0
            assert process.card is None
            with pytest.raises(NotReadyError, match="started again"):
                process.submit(request("now", [7]))
            await process.wait_ready()
            assert process.pid != first
            assert process.restarts == 1
            assert await tokens(process.submit(request("again", [9], 2))) == [9, 9]

    run(scenario)


def test_repeated_deaths_end_in_giving_up_with_the_last_words() -> None:
    async def scenario() -> None:
        async with engine(model="dies") as process:
            with pytest.raises(EngineDeadError, match=r"code 3: last words"):
                await process.wait_ready()
            assert process.state is EngineState.FAILED
            assert process.restarts == FAST.max_failures - 1
            assert "last words" in process.reason

    run(scenario)


def test_a_checkpoint_that_cannot_load_is_not_tried_again() -> None:
    async def scenario() -> None:
        async with engine(model="missing") as process:
            with pytest.raises(CheckpointError, match="no such checkpoint"):
                await process.wait_ready()
            assert process.state is EngineState.FAILED
            assert process.restarts == 0

    run(scenario)


def test_the_memory_limit_kills_and_restarts() -> None:
    async def scenario() -> None:
        async with engine(memory_limit=250_000_000) as process:
            await process.wait_ready()
            with pytest.raises(EngineDeadError, match=r"over its limit of 238 MiB"):
                await tokens(process.submit(request("r", [EAT], 100_000)))
            await process.wait_ready()
            assert process.restarts == 1

    run(scenario)


def test_drain_refuses_new_requests_and_finishes_running_ones() -> None:
    async def scenario() -> None:
        async with engine() as process:
            await process.wait_ready()
            reading = asyncio.create_task(tokens(process.submit(request("r", [7], 50))))
            draining = asyncio.create_task(process.drain(60.0))
            await asyncio.sleep(0)
            with pytest.raises(NotReadyError, match="shutting down"):
                process.submit(request("late", [7]))
            assert await draining
            assert len(await reading) == 50

    run(scenario)


def test_drain_ends_with_its_grace() -> None:
    async def scenario() -> None:
        async with engine() as process:
            await process.wait_ready()
            stream = process.submit(request("r", [SLOW], 100_000))
            assert not await process.drain(0.2)
            await process.close()
            with pytest.raises(EngineDeadError, match="shut down"):
                await tokens(stream)

    run(scenario)


def test_closing_while_loading_leaves_no_process() -> None:
    async def scenario() -> None:
        async with engine(model="slow") as process:
            await until(lambda: process.loading is not None)
            pid = process.pid
        assert pid is not None
        assert not psutil.pid_exists(pid)

    run(scenario)


_PARENT = """
import asyncio, sys
from ostro.core.options import EngineOptions
from ostro.link import EngineProcess
async def main():
    process = EngineProcess("fake_engine", EngineOptions(model=sys.argv[1]))
    process.start()
    while process.loading is None:
        await asyncio.sleep(0.01)
    if sys.argv[1] != "slow":
        await process.wait_ready()
    print(process.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("model", ["slow", "idle"])
def test_a_child_ends_by_itself_when_its_parent_is_killed(model: str) -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT, model], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    deadline = time.monotonic() + 15  # well before the seconds that the slow loader would have slept
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the engine process outlived its parent"
        time.sleep(0.01)


def test_link_needs_no_torch() -> None:
    code = "import sys, ostro.link, ostro.link.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path.cwd(), check=False).returncode == 0


def test_a_closed_engine_starts_again_and_its_counters_go_on() -> None:
    async def scenario() -> None:
        async with engine() as process:
            await process.wait_ready()
            await tokens(process.submit(request("first", [7], 5)))
            first = process.pid
            assert (process.resident_bytes or 0) > 10_000_000
            await process.close()
            assert (process.pid, process.resident_bytes) == (None, None)
            assert "not loaded" in process.reason
            assert process.stats.generation_tokens == 5
            process.start()
            with pytest.raises(NotReadyError, match="loading"):
                process.submit(request("early", [7]))
            await process.wait_ready()
            assert process.pid != first
            await tokens(process.submit(request("second", [7], 4)))
            assert process.stats.generation_tokens == 9
            assert process.stats.running == 0
            with pytest.raises(RuntimeError, match="started once"):
                process.start()

    run(scenario)


def test_a_drained_or_failed_engine_starts_again() -> None:
    async def scenario() -> None:
        async with engine() as process:
            await process.wait_ready()
            assert await process.drain(1.0)
            await process.close()
            process.start()
            await process.wait_ready()
            assert await tokens(process.submit(request("r", [7], 2))) == [7, 7]
        async with engine("missing") as process:
            with pytest.raises(CheckpointError):
                await process.wait_ready()
            assert process.failed
            await process.close()
            process.start()
            assert not process.failed
            with pytest.raises(CheckpointError):
                await process.wait_ready()

    run(scenario)
