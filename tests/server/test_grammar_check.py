"""Hostile formats are refused within two seconds, through real processes, while others are served."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from ostro.core import constraints
from ostro.core.errors import InvalidRequestError, QueueFullError
from ostro.server.grammar_check import GrammarChecker

LIMIT_S = 2.0


def bombs() -> dict[str, Any]:
    """Formats that are small on the wire and large to compile."""
    doubling: dict[str, Any] = {
        f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]} for i in range(40)
    }
    doubling["d40"] = {"type": "object", "properties": {"a": {"type": "string"}}}
    wide = {
        "type": "object",
        "properties": {f"k{i}": {"type": "string", "pattern": f"^(a|b)*{i}$"} for i in range(4000)},
    }
    unions = {
        "anyOf": [
            {"type": "object", "properties": {f"p{i}": {"oneOf": [{"const": j} for j in range(9)]}}} for i in range(900)
        ]
    }
    return {
        "doubling": lambda: constraints.json_schema({"$ref": "#/$defs/d0", "$defs": doubling}),
        "wide": lambda: constraints.json_schema(wide),
        "unions": lambda: constraints.json_schema(unions),
        "repeats": lambda: constraints.regex("(((((a{1,99}){1,99}){1,99}){1,99}){1,99}){1,99}"),
        "intersections": lambda: constraints.lark(
            "start: A\nA: " + " & ".join(f"/(.|\\n)*{c}(.|\\n){{40}}/" for c in "abcdefghij")
        ),
        "ten megabytes": lambda: constraints.json_schema({"enum": ["x" * 10_000_000]}),
        "ten megabytes of values": lambda: constraints.json_schema({"enum": [[]] * 3_000_000}),
    }


@pytest.mark.parametrize("name", list(bombs()))
def test_a_bomb_is_defused_in_time_and_the_loop_goes_on(name: str) -> None:
    async def check() -> tuple[float, float]:
        checker = GrammarChecker()
        beats: list[float] = []

        async def beat() -> None:
            while True:
                beats.append(time.monotonic())
                await asyncio.sleep(0.01)

        try:
            await checker.check(constraints.regex("warm"), param="response_format")
            beating = asyncio.create_task(beat())
            started = time.monotonic()
            with contextlib.suppress(InvalidRequestError):
                await checker.check(constraint, param="response_format")
            spent = time.monotonic() - started
            beating.cancel()
            return spent, max((b - a for a, b in itertools.pairwise(beats)), default=0.0)
        finally:
            await checker.close()

    started = time.monotonic()
    try:
        constraint = bombs()[name]()
    except InvalidRequestError:
        assert time.monotonic() - started < LIMIT_S
        return
    spent, longest = asyncio.run(check())
    assert spent < LIMIT_S
    assert longest < 0.5


@pytest.fixture
def compilers() -> Callable[[], list[psutil.Process]]:
    """The running processes that this test has started: nodes of other tests may run beside it."""
    mine = psutil.Process()
    before = set(mine.children())
    return lambda: [
        child
        for child in mine.children()
        if child not in before and child.is_running() and child.status() != psutil.STATUS_ZOMBIE
    ]


def test_one_that_takes_too_long_is_killed_and_remembered(compilers: Callable[[], list[psutil.Process]]) -> None:
    async def scenario() -> None:
        checker = GrammarChecker(compile_s=0.0005, processes=1)
        constraint = constraints.json_schema({"enum": [f"v{i}" for i in range(5000)]})
        try:
            with pytest.raises(InvalidRequestError, match="takes longer"):
                await checker.check(constraint, param="tools")
            started = time.monotonic()
            with pytest.raises(InvalidRequestError, match="takes longer") as caught:
                await checker.check(constraint, param="tools")
            assert time.monotonic() - started < 0.05
            assert caught.value.param == "tools"
            assert not compilers()
        finally:
            await checker.close()

    asyncio.run(scenario())


def test_a_killed_process_is_started_again_and_verdicts_are_remembered(
    compilers: Callable[[], list[psutil.Process]],
) -> None:
    async def scenario() -> None:
        checker = GrammarChecker(processes=1)
        try:
            await checker.check(constraints.regex("a"), param="p")
            (child,) = compilers()
            child.kill()  # as the kernel does where memory runs out: that is not the next grammar's fault
            await checker.check(constraints.regex("b"), param="p")
            (other,) = compilers()
            assert other != child
            child = other
            with pytest.raises(InvalidRequestError, match="cannot be compiled"):
                await checker.check(json.dumps({"grammars": [{"lark_grammar": "start: ("}]}), param="p")
            (child,) = compilers()
            child.kill()
            child.wait()
            await checker.check(constraints.regex("a"), param="p")  # known: no process is needed
        finally:
            await checker.close()
        assert not compilers()

    asyncio.run(scenario())


def test_one_that_ends_its_process_is_refused_and_others_go_on(compilers: Callable[[], list[psutil.Process]]) -> None:
    """As one does that takes more memory than its process may have: here, whatever is compiled is killed."""

    async def scenario() -> None:
        checker = GrammarChecker(compile_s=5.0, processes=1)
        killed = 0

        async def kill() -> None:
            nonlocal killed
            while killed < 2:
                for child in compilers():
                    child.kill()
                    child.wait()
                    killed += 1
                await asyncio.sleep(0)

        try:
            killing = asyncio.create_task(kill())
            with pytest.raises(InvalidRequestError, match="more memory"):
                await checker.check(constraints.regex("b"), param="p")
            await killing
            await checker.check(constraints.regex("c"), param="p")
        finally:
            await checker.close()

    asyncio.run(scenario())


def test_a_busy_moment_is_not_remembered_for_long() -> None:
    async def scenario() -> None:
        checker = GrammarChecker(compile_s=0.0005, processes=1, unfinished_s=0.2)
        try:
            with pytest.raises(InvalidRequestError, match="takes longer"):
                await checker.check(constraints.regex("a"), param="p")
            checker._compile_s = 5.0
            with pytest.raises(InvalidRequestError, match="takes longer"):
                await checker.check(constraints.regex("a"), param="p")
            await asyncio.sleep(0.25)
            await checker.check(constraints.regex("a"), param="p")
        finally:
            await checker.close()

    asyncio.run(scenario())


def test_more_than_can_be_compiled_are_told_to_come_back() -> None:
    async def scenario() -> None:
        checker = GrammarChecker(wait_s=0.0, processes=1)
        many = [constraints.json_schema({"enum": [f"{n}-{i}" for i in range(3000)]}) for n in range(4)]
        try:
            outcomes = await asyncio.gather(*(checker.check(one, param="p") for one in many), return_exceptions=True)
            assert [outcome for outcome in outcomes if outcome is None]
            refused = [outcome for outcome in outcomes if isinstance(outcome, QueueFullError)]
            assert refused
            assert refused[0].retry_after > 0
        finally:
            await checker.close()

    asyncio.run(scenario())
