"""Real nodes for the clients: processes of Ostro's own environment, which is not the one that these tests run in."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

ROOT = Path(__file__).parent.parent
PYTHON = Path(os.environ.get("OSTRO_PYTHON") or ROOT / ".venv" / "bin" / "python")

_START_S = 90.0


class Node:
    """Where a running server is. base: what OpenAI's clients call base_url."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url
        self.base = f"{url}/v1"


@contextmanager
def live_node(model: str = "ostro-nano", **environment: str) -> Iterator[Node]:
    """`ostro serve` with a real model."""
    command = ["-m", "ostro", "serve", model, "--port", "0"]
    with _process(command, environment, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        found = None
        while found is None:
            line = process.stderr.readline()
            assert line, "the server ended before it listened"
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
        node = Node(process, found.group())
        _wait_ready(node, environment.get("OSTRO_API_KEY"))
        yield node


@contextmanager
def fixture_node(program: str, *, wait: bool = True, **settings: Any) -> Iterator[Node]:
    """A node of tests/server: fake_node.py echoes, scripted_node.py answers from a table."""
    folders = [ROOT / "tests" / "link", ROOT / "tests" / "tokenizer", ROOT / "tests" / "server"]
    environment = {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    command = [str(ROOT / "tests" / "server" / program), json.dumps(settings)]
    with _process(command, environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, "the server ended before it listened"
        node = Node(process, f"http://127.0.0.1:{port}")
        if wait:
            _wait_ready(node, next(iter(settings.get("api_keys", ())), None))
        yield node


@contextmanager
def _process(command: list[str], environment: dict[str, str], **pipes: int) -> Iterator[subprocess.Popen[str]]:
    inherited = {name: value for name, value in os.environ.items() if name != "OSTRO_API_KEY"}
    full = [str(PYTHON), *command]
    with subprocess.Popen(full, env={**inherited, **environment}, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def _wait_ready(node: Node, key: str | None) -> None:
    request = urllib.request.Request(f"{node.url}/health/ready")
    if key is not None:
        request.add_header("authorization", f"Bearer {key}")
    deadline = time.monotonic() + _START_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10):
                return
        except URLError:
            assert node.process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not get ready"
            time.sleep(0.1)
