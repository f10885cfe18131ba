"""Whether a grammar can be compiled in time: asked of processes that are killed when they take too long."""

from __future__ import annotations

import asyncio
import hashlib
import math
import sys
import time
from collections import OrderedDict
from typing import NamedTuple

from ostro.core.errors import InvalidRequestError, QueueFullError
from ostro.core.grammar_compiler import LENGTH
from ostro.core.grammar_limits import one_line

COMPILE_S = 1.2
WAIT_S = 0.5
PROCESSES = 2
REMEMBERED = 2048
UNFINISHED_S = 60.0
_MODULE = "ostro.core.grammar_compiler"


class GrammarChecker:
    """Verdicts on grammars, remembered. Use from one event loop; `close` ends the processes.

    unfinished_s: how long it is remembered that a grammar took too much. That may have been a busy moment's fault.
    """

    def __init__(
        self,
        *,
        compile_s: float = COMPILE_S,
        wait_s: float = WAIT_S,
        processes: int = PROCESSES,
        unfinished_s: float = UNFINISHED_S,
    ) -> None:
        self._compile_s = compile_s
        self._wait_s = wait_s
        self._unfinished_s = unfinished_s
        self._verdicts: OrderedDict[bytes, _Verdict] = OrderedDict()
        self._all = [_Compiler() for _ in range(processes)]
        self._free: asyncio.LifoQueue[_Compiler] = asyncio.LifoQueue()  # one that runs already is taken first
        for compiler in self._all:
            self._free.put_nowait(compiler)

    async def check(self, constraint: str, *, param: str) -> None:
        """Return when the grammar compiles.

        Raises InvalidRequestError naming `param` for one that does not, or not in time; QueueFullError where too many
        others are being compiled.
        """
        digest = hashlib.sha256(constraint.encode("utf-8", "surrogatepass")).digest()
        verdict = self._verdicts.get(digest)
        if verdict is None or verdict.until < time.monotonic():
            verdict = self._verdicts[digest] = await self._ask(constraint)
        self._verdicts.move_to_end(digest)
        if len(self._verdicts) > REMEMBERED:
            self._verdicts.popitem(last=False)
        if verdict.problem:
            raise InvalidRequestError(
                f"The answer's format cannot be compiled: {verdict.problem}", param=param, code="invalid_grammar"
            )

    async def close(self) -> None:
        await asyncio.gather(*(compiler.stop() for compiler in self._all))

    async def _ask(self, constraint: str) -> _Verdict:
        try:
            async with asyncio.timeout(self._wait_s):
                compiler = await self._free.get()
        except TimeoutError:
            raise QueueFullError(
                "Too many formats are being compiled at once. Try again in a moment.", retry_after=self._compile_s
            ) from None
        try:
            async with asyncio.timeout(self._compile_s):
                return _Verdict(await self._compile(compiler, constraint))
        except TimeoutError:
            await compiler.stop()
            return self._unfinished(f"it takes longer than {self._compile_s:g} s. Make it smaller, or less ambiguous.")
        except (OSError, asyncio.IncompleteReadError):
            await compiler.stop()
            return self._unfinished("it takes more memory than a format may. Make it smaller.")
        except BaseException:  # a client that left in the middle: what the process would say belongs to nobody
            await compiler.stop()
            raise
        finally:
            self._free.put_nowait(compiler)

    async def _compile(self, compiler: _Compiler, constraint: str) -> str:
        """What is wrong with the grammar. A process that ends under it may have been ended by something else, before
        this grammar or since: only what a fresh one ends under too is the grammar's fault."""
        try:
            return await compiler.compile(constraint)
        except (OSError, asyncio.IncompleteReadError):
            await compiler.stop()
            return await compiler.compile(constraint)

    def _unfinished(self, problem: str) -> _Verdict:
        return _Verdict(problem, time.monotonic() + self._unfinished_s)


class _Verdict(NamedTuple):
    """problem: empty where there is none. until: the moment, of the monotonic clock, from which it holds no more."""

    problem: str
    until: float = math.inf


class _Compiler:
    """One process, started when it is needed."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def compile(self, grammar: str) -> str:
        """What is wrong with the grammar; empty where nothing is. Raises OSError, IncompleteReadError."""
        process = self._process = self._process or await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", _MODULE),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        body = grammar.encode("utf-8", "replace")
        process.stdin.write(LENGTH.pack(len(body)) + body)
        await process.stdin.drain()
        (length,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
        return one_line((await process.stdout.readexactly(length)).decode("utf-8", "replace"))

    async def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        await process.wait()
        transport = getattr(process, "_transport", None)  # its pipes are closed now, not when it is collected
        if transport is not None:
            transport.close()
