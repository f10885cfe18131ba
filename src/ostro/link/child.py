"""One engine process: started, watched for its memory, ended. It knows nothing of requests."""

from __future__ import annotations

import asyncio
import collections
import signal
import socket
import sys

import msgspec
import psutil

from ostro.core.options import EngineOptions
from ostro.link.channel import ProgramChannel

_MEMORY_EVERY_S = 0.5
_EXIT_GRACE_S = 5.0
_STDERR_LINES = 20


class Child:
    """A running engine process and the channel to it."""

    def __init__(self, process: asyncio.subprocess.Process, channel: ProgramChannel) -> None:
        self.process = process
        self.channel = channel
        self.over_memory: str | None = None
        self._last_lines: collections.deque[str] = collections.deque(maxlen=_STDERR_LINES)
        self._forwarding = asyncio.create_task(self._forward_stderr())

    @classmethod
    async def spawn(cls, module: str, options: EngineOptions) -> Child:
        """Start `python -m module` with one end of a socket pair and the options as JSON."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", module, "--fd", str(theirs.fileno())),
                *("--options", msgspec.json.encode(options).decode()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # a terminal's Ctrl-C is for the parent, which drains first
            )
        return cls(process, await ProgramChannel.over(ours))

    @property
    def pid(self) -> int:
        return self.process.pid

    async def watch_memory(self, limit: int) -> None:
        """Kill the process once its resident memory is over `limit` bytes."""
        watched = psutil.Process(self.pid)
        while True:
            try:
                used = watched.memory_info().rss
            except psutil.NoSuchProcess:
                return
            if used > limit:
                self.over_memory = (
                    f"the engine process used {used / 2**20:.0f} MiB, over its limit of {limit / 2**20:.0f} MiB"
                )
                self.kill()
                return
            await asyncio.sleep(_MEMORY_EVERY_S)

    def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()

    async def ended(self) -> str:
        """Wait for the end, make it come if it does not, free what belonged to it, and say how it went."""
        try:
            code = await asyncio.wait_for(self.process.wait(), _EXIT_GRACE_S)
        except TimeoutError:
            self.kill()
            code = await self.process.wait()
        await self.channel.close()
        await self._forwarding
        if self.over_memory is not None:
            return self.over_memory
        if code < 0:
            return f"the engine process was ended by {_signal_name(-code)}"
        tail = f": {self._last_lines[-1]}" if code and self._last_lines else ""
        return f"the engine process ended with code {code}{tail}"

    async def _forward_stderr(self) -> None:
        """The child's log is ours; its last lines explain a death that it could not report itself."""
        assert self.process.stderr is not None
        while True:
            try:
                line = await self.process.stderr.readline()
            except ValueError:  # a line longer than the stream's buffer; the rest of it comes next
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self._last_lines.append(text)
            print(text, file=sys.stderr, flush=True)  # noqa: T201 - forwarding a log is the point


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
