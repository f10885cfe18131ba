"""Real server processes for the tests, and ways to talk to them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

HERE = Path(__file__).parent


class Node:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx2.Client(base_url=self.url, timeout=120, trust_env=False)

    def wait_ready(self, seconds: float = 60.0, **headers: str) -> None:
        until(lambda: self.http.get("/health/ready", headers=headers).status_code == 200, seconds)

    def chat(self, text: str, **fields: Any) -> httpx2.Response:
        messages = [{"role": "user", "content": text}]
        body = {"messages": messages, "max_tokens": 8, "seed": 0, **fields}
        return self.http.post("/v1/chat/completions", json=body)

    def complete(self, prompt: Any, **fields: Any) -> httpx2.Response:
        return self.http.post("/v1/completions", json={"prompt": prompt, "seed": 0, **fields})

    @contextmanager
    def streaming(self, path: str, **fields: Any) -> Iterator[Iterator[Any]]:
        """Payloads of a stream, parsed; [DONE] as the string."""
        with self.http.stream("POST", path, json={"stream": True, "seed": 0, **fields}) as response:
            assert response.status_code == 200, response.read()
            yield _payloads(response)

    def metric(self, name: str, **labels: str) -> float:
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(name + "{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def terminate(self) -> None:
        os.kill(self.process.pid, signal.SIGTERM)


def _payloads(response: httpx2.Response) -> Iterator[Any]:
    for line in response.iter_lines():
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@contextmanager
def running_node(*, wait: bool = True, program: str = "fake_node.py", **settings: Any) -> Iterator[Node]:
    """A node around the fake engine, or as another program makes it, in a process of its own."""
    found = [HERE.parent / "link", HERE.parent / "tokenizer", HERE]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, found))}
    command = [sys.executable, str(HERE / program), json.dumps(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        node = Node(process, int(process.stdout.readline()))
        try:
            if wait:
                keys = settings.get("api_keys")
                headers = {"authorization": f"Bearer {keys[0]}"} if keys else {}
                until(lambda: _is_up(node))
                node.wait_ready(**headers)
            yield node
        finally:
            node.http.close()
            process.kill()


@contextmanager
def scripted_node(script: dict[str, Any], *, version: str = "v13", **settings: Any) -> Iterator[Node]:
    """A node whose model "scripted" has a real tekken tokenizer and answers as the script says (scripted_engine.py)."""
    models = {"scripted": {"version": version, "script": script}}
    with running_node(program="scripted_node.py", models=models, **settings) as node:
        yield node


def _is_up(node: Node) -> bool:
    with contextlib.suppress(httpx2.TransportError):
        return node.http.get("/health/live").status_code == 200
    return False
