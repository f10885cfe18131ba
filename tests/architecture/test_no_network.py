"""After installation nothing asks the network: the main job runs with every non-loopback connection blocked."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

# Loaded at the start of every Python process that has its folder on the path, children included. It writes down what
# it blocks, because the error itself may be caught by the code that asked.
GUARD = """
import os, sys

LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")

def guard(event, args):
    if event == "socket.connect" or event == "socket.sendto":
        address = args[1]
        host = address[0] if isinstance(address, tuple) else "127.0.0.1"  # a Unix socket
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0] or "127.0.0.1"
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host)
    if not host.startswith(LOOPBACK):
        with open(os.environ["BLOCKED_LOG"], "a") as log:
            log.write(f"{event} {host}\\n")
        raise OSError(f"blocked: {event} {host}")

sys.addaudithook(guard)
"""


@pytest.fixture
def offline(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {
        **os.environ,
        "PYTHONPATH": path,
        "BLOCKED_LOG": str(tmp_path / "log"),
        "OSTRO_HOME": str(tmp_path / "home"),
    }


def blocked(environment: dict[str, str]) -> str:
    log = Path(environment["BLOCKED_LOG"])
    return log.read_text() if log.exists() else ""


def test_the_guard_blocks(offline: dict[str, str]) -> None:
    code = "import urllib.request; urllib.request.urlopen('http://192.0.2.1/')"
    done = subprocess.run([sys.executable, "-c", code], env=offline, capture_output=True, text=True, timeout=60)
    assert "blocked: socket." in done.stderr
    assert "192.0.2.1" in blocked(offline)


def test_a_prompt_is_answered(offline: dict[str, str]) -> None:
    command = [
        sys.executable,
        "-m",
        "ostro",
        "run",
        "ostro-nano",
        "I am still waiting on my card?",
        "--max-tokens",
        "8",
        "--json",
    ]
    done = subprocess.run(command, env=offline, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])
    assert blocked(offline) == ""


def test_the_server_answers(offline: dict[str, str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "ostro", "serve", "--port", str(port)]
    server = subprocess.Popen(command, env=offline, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        body = {"model": "ostro-nano", "messages": [{"role": "user", "content": "I am still waiting on my card?"}]}
        answer = ask_when_ready(server, f"http://127.0.0.1:{port}", json.dumps(body).encode())
    finally:
        server.terminate()
        server.wait(timeout=30)
    assert answer["choices"][0]["message"]["content"]
    assert blocked(offline) == ""


def ask_when_ready(server: subprocess.Popen[bytes], base: str, body: bytes) -> dict:
    deadline = time.monotonic() + 90
    while True:
        try:
            urllib.request.urlopen(f"{base}/health/ready", timeout=30).close()
            break
        except OSError:  # refused, or 503 while it loads
            assert server.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server did not become ready"
            time.sleep(0.2)
    request = urllib.request.Request(f"{base}/v1/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)
