"""The engine process's side of the link: load, then step for as long as there is work.

Torch-free: the engine comes in as a loader, so that the loop can be tested around any engine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Protocol

import msgspec

from ostro.core.errors import LinkError, OstroError
from ostro.core.media import MediaInput
from ostro.core.options import EngineOptions
from ostro.core.request import EngineRequest, EngineStats, ModelCard, TokensEvent
from ostro.link.channel import EngineChannel
from ostro.link.messages import (
    Abort,
    Events,
    Fatal,
    Loading,
    Provide,
    Ready,
    Rejected,
    Shutdown,
    Submit,
    ToEngine,
    WireError,
    Withdraw,
)

_PROGRESS_EVERY_S = 0.1

Progress = Callable[[int, int, str], None]


class StepEngine(Protocol):
    """What the loop needs of an engine."""

    card: ModelCard

    @property
    def has_work(self) -> bool: ...

    def add(self, request: EngineRequest) -> None: ...

    def abort(self, request_id: str) -> None: ...

    def step(self) -> list[TokensEvent]: ...

    def stats(self) -> EngineStats: ...


Loader = Callable[[EngineOptions, Progress], StepEngine]


def run_worker(load: Loader, argv: list[str] | None = None) -> int:
    """The whole life of an engine process; returns its exit code.

    `argv` holds `--fd`, the inherited socket, and `--options`, the EngineOptions as JSON.
    """
    parser = argparse.ArgumentParser(description="An engine process. Started by Ostro itself, not by hand.")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--options", required=True)
    given = parser.parse_args(argv)
    # A terminal's Ctrl-C or a service manager's SIGTERM reaches every process at once. The parent alone decides
    # when the engine ends, after its running requests; its end of the socket closing is the signal here.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    channel = EngineChannel(socket.socket(fileno=given.fd))
    inbox: queue.SimpleQueue[ToEngine] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(channel, inbox), name="link-reader", daemon=True).start()
    try:
        options = msgspec.json.decode(given.options, type=EngineOptions)
        engine = load(options, _reporter(channel))
        channel.send(Ready(engine.card))
        _loop(engine, channel, inbox)
    except Exception as error:  # noqa: BLE001 - the parent is told, whatever it was, and starts a new process
        if not isinstance(error, OstroError):  # An error of ours says by itself what was wrong.
            traceback.print_exc()
        channel.send(Fatal(WireError.of(error)))
        return 1
    return 0


def _receive(channel: EngineChannel, inbox: queue.SimpleQueue[ToEngine]) -> None:
    """Feed the inbox, so that the step loop never waits on the socket. Ends the process with its parent."""
    try:
        while (message := channel.receive()) is not None:
            inbox.put(message)
    except (LinkError, OSError) as error:
        with contextlib.suppress(OSError):  # a parent that was killed took the other end of stderr with it
            print(f"engine process: {error}", file=sys.stderr)  # noqa: T201 - the process's log is its stderr
    finally:
        # Not sys.exit: the main thread may be minutes deep in loading, and nobody is left to load for.
        os._exit(0)


def _reporter(channel: EngineChannel) -> Progress:
    last = 0.0

    def report(done: int, total: int, what: str) -> None:
        nonlocal last
        now = time.monotonic()
        if done >= total or now - last >= _PROGRESS_EVERY_S:
            last = now
            channel.send(Loading(done, total, what))

    return report


def _loop(engine: StepEngine, channel: EngineChannel, inbox: queue.SimpleQueue[ToEngine]) -> None:
    provided: dict[str, MediaInput] = {}
    while True:
        messages = _drain(inbox, wait=not engine.has_work)
        for message in messages:
            match message:
                case Provide(media):
                    provided[media.digest] = media
                case Withdraw(digest):
                    provided.pop(digest, None)
                case Submit(request):
                    _add(engine, channel, _with_media(request, provided))
                case Abort(request_id):
                    engine.abort(request_id)
                case Shutdown():
                    return
        events = engine.step() if engine.has_work else []
        if events or messages:
            channel.send(Events(events, engine.stats()))


def _drain(inbox: queue.SimpleQueue[ToEngine], *, wait: bool) -> list[ToEngine]:
    """Everything in the inbox; blocks for the first message where `wait`."""
    messages = [inbox.get()] if wait else []
    while True:
        try:
            messages.append(inbox.get_nowait())
        except queue.Empty:
            return messages


def _with_media(request: EngineRequest, provided: dict[str, MediaInput]) -> EngineRequest:
    digests = dict.fromkeys(span.digest for span in request.spans)
    media = [provided[digest] for digest in digests if digest in provided]
    return msgspec.structs.replace(request, media=media) if media else request


def _add(engine: StepEngine, channel: EngineChannel, request: EngineRequest) -> None:
    try:
        engine.add(request)
    except Exception as error:  # noqa: BLE001 - one bad request must not end the others
        channel.send(Rejected(request.request_id, WireError.of(error)))
