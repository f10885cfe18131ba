"""A client's own edge: a node on this machine, in processes that live as long as the one that asked for it.

It is an ordinary node on a free port of loopback, with a key that nobody else has, so it can all that a node can. All
clients of a process share one for each model; it is loaded once, and started again where it died.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from typing import IO

from ostro.core.errors import NotReadyError

DEFAULT_EDGE_MODEL = "ostro-nano-edge"
_READY = "Ostro is ready: "
_END_S = 10.0


class EdgeNode:
    """A running node. url, key: for whoever asks it."""

    def __init__(self, model: str) -> None:
        """Starts it and waits until it is loaded. Raises NotReadyError with what it said where it does not start."""
        self.model = model
        self.key = secrets.token_urlsafe(32)
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it is the process's, as long as that lives
        environment = {**os.environ, "OSTRO_API_KEY": self.key, "OSTRO_STORE": ":memory:"}
        environment.pop("OSTRO_GATEWAY_KEY", None)
        command = [sys.executable, "-m", "ostro", "serve", model, "--port", "0", "--until-stdin-closes"]
        # Its input is a pipe that only this process holds: it closes however this process ends.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, env=environment
        )
        self.url = self._wait_ready()

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """End it; what it is asked now is lost."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def _wait_ready(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            text = line.decode("utf-8", "replace")
            if text.startswith(_READY):
                return text.removeprefix(_READY).strip()
        self._process.wait()
        self._said.seek(0)
        words = self._said.read().decode("utf-8", "replace").strip().splitlines()
        self.close()
        why = words[-1].removeprefix("error: ") if words else f"it ended with {self._process.returncode}"
        raise NotReadyError(f"The edge model '{self.model}' did not start: {why}")


_nodes: dict[str, EdgeNode] = {}
_lock = threading.Lock()


def edge_node(model: str) -> EdgeNode:
    """This process's node for a model, started at the first call; blocking while it loads. Raises NotReadyError."""
    with _lock:
        node = _nodes.get(model)
        if node is not None and node.lives:
            return node
        if node is not None:
            node.close()
            del _nodes[model]
        _nodes[model] = node = EdgeNode(model)
        return node


@atexit.register
def close_edges() -> None:
    """End all of them. They end by themselves where this process is killed."""
    with _lock:
        for node in _nodes.values():
            node.close()
        _nodes.clear()


def _forget_after_fork() -> None:
    # A child has copies of the pipes; the processes are its parent's, and so may be whoever holds the lock.
    global _lock
    _lock = threading.Lock()
    _nodes.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
