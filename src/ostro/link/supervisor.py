"""Keeps one engine process running, and gives it the face of a `Generate`."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import time
from collections.abc import Callable

import msgspec
import psutil

from ostro.core.errors import EngineDeadError, InvalidRequestError, LinkError, NotReadyError, OstroError, QueueFullError
from ostro.core.options import EngineOptions
from ostro.core.request import EngineRequest, EngineStats, ModelCard
from ostro.link.channel import MAX_FRAME_BYTES
from ostro.link.child import Child
from ostro.link.media import SharedMedia
from ostro.link.messages import Abort, Events, Fatal, Loading, Ready, Rejected, Shutdown, Submit, WireError
from ostro.link.stream import TokenStream

log = logging.getLogger("ostro.link")

_SHUTDOWN_GRACE_S = 5.0


class EngineState(enum.Enum):
    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    CLOSED = "closed"  # not started, or ended


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a dead engine process is started again.

    A process that lived for `healthy_s` seconds after it was ready clears the count of failures. The n-th failure
    in a row is followed by a pause of `first_pause_s` · 2^(n-1) seconds, at most `longest_pause_s`; after
    `max_failures` of them there is no other try.
    """

    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    healthy_s: float = 10.0
    max_failures: int = 5

    def pause(self, failures: int) -> float:
        return min(self.longest_pause_s, self.first_pause_s * 2.0 ** (failures - 1))


class EngineProcess:
    """One model's engine in a child process, restarted when it dies.

    module: what the child runs as `python -m module`; it must call `ostro.link.worker.run_worker`.
    memory_limit: bytes of resident memory over which the child is killed and restarted; None watches nothing.
    on_loading: told each step of loading, on the event loop.
    Use from one event loop: `start`, then `submit`; `drain` and `close` at the end. A closed one may be started again.
    """

    def __init__(
        self,
        module: str,
        options: EngineOptions,
        *,
        memory_limit: int | None = None,
        restart: RestartPolicy | None = None,
        on_loading: Callable[[Loading], None] | None = None,
    ) -> None:
        self.module = module
        self.options = options
        self.memory_limit = memory_limit
        self.restarts = 0
        self.loading: Loading | None = None
        self.draining = False
        self._restart = restart or RestartPolicy()
        self._on_loading = on_loading
        self._state = EngineState.CLOSED
        self._card: ModelCard | None = None
        self._stats = EngineStats()
        self._past = EngineStats()
        self._last_error: OstroError | None = None
        self._permanent = False
        self._start_seconds: float | None = None
        self._child: Child | None = None
        self._streams: dict[str, TokenStream] = {}
        self._media = SharedMedia(options.media_memory)
        self._idle = asyncio.Event()
        self._idle.set()
        self._settled = asyncio.Event()
        self._closing = asyncio.Event()
        self._supervising: asyncio.Task[None] | None = None

    @property
    def card(self) -> ModelCard | None:
        return self._card

    @property
    def stats(self) -> EngineStats:
        """The newest snapshot. Its counters go on over every process that this engine has had."""
        return self._stats.after(self._past)

    @property
    def state(self) -> EngineState:
        return self._state

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    @property
    def failed(self) -> bool:
        """Whether it does not run, and is not started again by itself."""
        return self._state is EngineState.FAILED

    @property
    def resident_bytes(self) -> int | None:
        """Main memory that the child takes now; None where there is no child."""
        if self._child is None:
            return None
        try:
            return int(psutil.Process(self._child.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            return None

    @property
    def last_error(self) -> OstroError | None:
        """Why the engine process last died, or could not load."""
        return self._last_error

    @property
    def reason(self) -> str:
        """Why requests are not taken now; empty where they are."""
        if self.draining:
            return "The server is shutting down and takes no new requests."
        name = self.options.name or self.options.model
        because = f" ({self._last_error.message})" if self._last_error is not None else ""
        match self._state:
            case EngineState.READY:
                return ""
            case EngineState.LOADING:
                step = self.loading
                progress = f": {step.what}, {step.done} of {step.total}" if step is not None else ""
                return f"The model '{name}' is loading{progress}."
            case EngineState.RESTARTING:
                return f"The engine of '{name}' died and is being started again{because}."
            case EngineState.FAILED:
                return f"The engine of '{name}' does not start{because}."
            case EngineState.CLOSED:
                return f"The model '{name}' is not loaded."

    def start(self) -> None:
        """Begin to load, and return at once. Raises RuntimeError for one that was started and not closed since."""
        if self._supervising is not None:
            raise RuntimeError("an engine is started once, and again only after it was closed")
        self._state = EngineState.LOADING
        self._last_error = None
        self._permanent = self.draining = False
        self._closing.clear()
        self._settled.clear()
        self._supervising = asyncio.create_task(self._supervise(), name=f"engine {self.options.name}")

    async def wait_ready(self) -> ModelCard:
        """Wait until the model is loaded. Raises what made loading fail, once it is not tried again."""
        await self._settled.wait()
        if self._card is not None:
            return self._card
        raise self._last_error or NotReadyError(self.reason)

    def submit(self, request: EngineRequest) -> TokenStream:
        """Queue a request. Raises NotReadyError, InvalidRequestError for one too large to send, and QueueFullError
        while the images and sounds of others take too much memory."""
        if self._card is None or self._child is None or self.draining:
            raise NotReadyError(self.reason, retry_after=self.retry_after)
        if not self._media.fits(request):
            raise QueueFullError(
                "The images and sounds of requests that run and wait take all the memory there is for them. Try again "
                "later.",
                retry_after=self._stats.drain_s or 1.0,
            )
        try:
            for message in self._media.take(request):
                self._child.channel.send(message)
            self._child.channel.send(Submit(msgspec.structs.replace(request, media=[])))
        except LinkError as error:
            self._release(request.request_id)
            raise InvalidRequestError(
                f"The request is too large to hand to the engine, the limit is {MAX_FRAME_BYTES} bytes.",
                param="prompt",
            ) from error
        stream = TokenStream(request.request_id, self._abort)
        self._streams[request.request_id] = stream
        self._idle.clear()
        return stream

    async def drain(self, grace_s: float) -> bool:
        """Take nothing new and let what runs finish; False where some of it did not in `grace_s` seconds."""
        self.draining = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace_s)
        return self._idle.is_set()

    async def close(self) -> None:
        """End the child. Requests that still run get an error."""
        self._state = EngineState.CLOSED
        self._closing.set()
        if self._child is not None:
            self._child.channel.send(Shutdown())
            if self._card is None:
                self._child.kill()  # Deep in loading it would read the message too late.
        supervising = self._supervising
        if supervising is None:
            return
        done, _ = await asyncio.wait([supervising], timeout=_SHUTDOWN_GRACE_S)
        if not done and self._child is not None:
            self._child.kill()
        await supervising
        self._supervising = None

    @property
    def retry_after(self) -> float:
        """Seconds after which another try is worth it: what starting took the last time, where that is known."""
        if self._state is EngineState.FAILED:
            return self._restart.longest_pause_s
        return 5.0 if self._start_seconds is None else self._start_seconds + self._restart.first_pause_s

    def _abort(self, request_id: str) -> None:
        self._forget(request_id)
        if self._child is not None:
            self._child.channel.send(Abort(request_id))

    def _forget(self, request_id: str) -> TokenStream | None:
        stream = self._streams.pop(request_id, None)
        self._release(request_id)
        if not self._streams:
            self._idle.set()
        return stream

    def _release(self, request_id: str) -> None:
        for message in self._media.release(request_id):
            if self._child is not None:
                self._child.channel.send(message)

    async def _supervise(self) -> None:
        failures = 0
        while True:
            lived = await self._one_life()
            if self._state is EngineState.CLOSED:
                break
            failures = 1 if lived >= self._restart.healthy_s else failures + 1
            if self._permanent or failures >= self._restart.max_failures:
                self._state = EngineState.FAILED
                log.error("%s No other try is made.", self.reason)
                break
            self._state = EngineState.RESTARTING
            pause = self._restart.pause(failures)
            log.warning("%s Next try in %.1f s.", self.reason, pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause)
                break
            self.restarts += 1
        self._settled.set()

    async def _one_life(self) -> float:
        """From spawn to death; returns the seconds that the engine was ready."""
        self.loading = None
        started = time.monotonic()
        try:
            child = self._child = await Child.spawn(self.module, self.options)
        except OSError as error:
            self._note_death(None, f"the engine process could not be started: {error}")
            return 0.0
        watching = None
        if self.memory_limit is not None:
            watching = asyncio.create_task(child.watch_memory(self.memory_limit))
        if self._closing.is_set():  # closed while the process was being started
            child.channel.send(Shutdown())
        try:
            ready_at, fatal = await self._listen(child)
            if ready_at is not None:
                self._start_seconds = ready_at - started
        finally:
            self._child = None
            self._card = None
            self._media.clear()
            self._settled.clear()
            self._past, self._stats = self.stats.ended(), EngineStats()
            if watching is not None:
                watching.cancel()
        self._note_death(fatal, await child.ended())
        return 0.0 if ready_at is None else time.monotonic() - ready_at

    async def _listen(self, child: Child) -> tuple[float | None, WireError | None]:
        """Take messages until the channel closes: when the engine was ready, and what it died of, if it said."""
        ready_at: float | None = None
        try:
            while (message := await child.channel.receive()) is not None:
                if isinstance(message, Fatal):
                    return ready_at, message.error
                if isinstance(message, Ready):
                    ready_at = time.monotonic()
                self._take(message)
        except LinkError as error:
            log.error("%s", error)
            child.kill()
        return ready_at, None

    def _note_death(self, fatal: WireError | None, how: str) -> None:
        if fatal is not None:
            how = fatal.message
        if self._state is EngineState.CLOSED:
            how = "the engine was shut down"
        else:
            text = f"{how[:1].upper()}{how[1:]}"
            self._last_error = EngineDeadError(text) if fatal is None else fatal.rebuild()
            self._permanent = fatal is not None and fatal.is_permanent
        for request_id in list(self._streams):
            stream = self._forget(request_id)
            assert stream is not None
            message = f"The request was lost: {how.rstrip('.')}. Send it again."
            stream.fail(EngineDeadError(message, retry_after=self.retry_after))

    def _take(self, message: Loading | Ready | Rejected | Events) -> None:
        match message:
            case Events(events, stats):
                self._stats = stats
                for event in events:
                    done = event.finish_reason is not None
                    stream = self._forget(event.request_id) if done else self._streams.get(event.request_id)
                    if stream is not None:  # None: aborted here while the event was on its way
                        stream.push(event)
            case Rejected(request_id, error):
                stream = self._forget(request_id)
                if stream is not None:
                    stream.fail(error.rebuild())
            case Loading():
                self.loading = message
                if self._on_loading is not None:
                    self._on_loading(message)
            case Ready(card):
                self._card = card
                if self._state is not EngineState.CLOSED:
                    self._state = EngineState.READY
                self._settled.set()
                if self.restarts:
                    log.info("The engine of '%s' is back.", card.name)
