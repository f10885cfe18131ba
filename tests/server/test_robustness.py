"""Clients that leave, stall or only hold connections, over raw sockets: others must not notice."""

from __future__ import annotations

import contextlib
import itertools
import json
import resource
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from fake_engine import SLOW, STUCK
from nodes import Node, running_node, until

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def impatient() -> Iterator[Node]:
    """A node with short limits of time."""
    options = {"max_num_seqs": 8, "max_model_len": 200_000}
    with running_node(options=options, headers_s=0.6, body_s=0.6, heartbeat_s=0.3) as node:
        yield node


def _connect(node: Node) -> socket.socket:
    return socket.create_connection(("127.0.0.1", node.port), timeout=30)


def _request(**body: Any) -> bytes:
    content = json.dumps(body).encode()
    return HEAD + f"Content-Length: {len(content)}\r\n\r\n".encode() + content


def _read_all(raw: socket.socket) -> bytes:
    """Until the server closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := raw.recv(65_536):
            received += piece
    return received


def _is_idle(node: Node) -> bool:
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
    return all(node.metric(name) == 0 for name in names)


STREAM = _request(prompt=[SLOW, 65], max_tokens=400, stream=True)
WHOLE = _request(prompt=[SLOW, 65], max_tokens=400)
UNBEGUN = _request(prompt=[STUCK], max_tokens=5, stream=True)


@pytest.mark.parametrize(
    ("sent", "wait_for"),
    [
        (b"", 0),
        (b"POST /v1/comp", 0),
        (HEAD, 0),
        (HEAD + b"Content-Length: 500\r\n\r\n", 0),
        (HEAD + b"Content-Length: 500\r\n\r\n" + b'{"prompt": [', 0),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n", 0),
        (STREAM, 0),  # gone before anything came back
        (WHOLE, 0),
        (UNBEGUN, 1),
        (STREAM, 100),  # gone in mid-stream
        (STREAM + STREAM, 100),  # with a second request behind it
    ],
)
@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_a_client_that_leaves_in_any_phase_leaves_nothing(
    impatient: Node, sent: bytes, wait_for: int, how: str
) -> None:
    raw = _connect(impatient)
    with raw:
        raw.sendall(sent)
        if wait_for:
            assert raw.recv(wait_for)
        if how == "reset":
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        elif how == "half":
            raw.shutdown(socket.SHUT_WR)
    until(lambda: _is_idle(impatient), 10)  # of its own accord each would go on for 20 s or for ever
    assert impatient.complete("ok", max_tokens=3).json()["choices"][0]["text"] == "ok"


@pytest.mark.parametrize("sent", [b"", b"GET /health", HEAD])
def test_headers_that_do_not_end_close_the_connection(impatient: Node, sent: bytes) -> None:
    with _connect(impatient) as raw:
        raw.sendall(sent)
        started = time.monotonic()
        assert _read_all(raw) == b""
        assert 0.3 < time.monotonic() - started < 5


def test_headers_have_as_long_for_a_later_request(impatient: Node) -> None:
    with _connect(impatient) as raw:
        ask = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
        raw.sendall(ask)
        _read_live(raw)
        time.sleep(1.0)  # the first request's headers were in time, so nothing runs
        raw.sendall(ask[:-2])
        time.sleep(0.2)
        raw.sendall(ask[-2:])
        _read_live(raw)
        raw.sendall(ask[:-2])
        assert _read_all(raw) == b""


def _read_live(raw: socket.socket) -> None:
    """A whole answer of /health/live."""
    received = b""
    while not received.endswith(b"}"):
        piece = raw.recv(4096)
        assert piece, received
        received += piece
    assert received.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "start",
    [b"Content-Length: 500\r\n\r\n{", b"Content-Length: 500\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"],
)
def test_a_body_that_does_not_come_is_408(impatient: Node, start: bytes) -> None:
    with _connect(impatient) as raw:
        raw.sendall(HEAD + start)
        started = time.monotonic()
        answer = _read_all(raw)
        assert 0.3 < time.monotonic() - started < 5
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in answer.lower()
    assert b"request_timeout" in answer


def test_a_body_that_trickles_is_408_too(impatient: Node) -> None:
    with _connect(impatient) as raw:
        raw.sendall(HEAD + b"Content-Length: 500\r\n\r\n")
        started = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - started < 10:
                raw.sendall(b" ")
                raw.settimeout(0.1)
                with contextlib.suppress(TimeoutError):
                    if raw.recv(4096).startswith(b"HTTP/1.1 408"):
                        break
        assert time.monotonic() - started < 5


def test_a_slow_body_that_goes_on_is_taken(impatient: Node) -> None:
    text = b'{"prompt": "ok", "max_tokens": 3, "seed": 0, "x": "' + b"y" * 4_000 + b'"}'
    with _connect(impatient) as raw:
        raw.sendall(HEAD + f"Content-Length: {len(text)}\r\n\r\n".encode())
        for start in range(0, len(text), 1_024):
            raw.sendall(text[start : start + 1_024])
            time.sleep(0.3)  # 1.2 s in all, twice what a body that does not come may take
        assert raw.recv(4096).startswith(b"HTTP/1.1 200")


def _seconds_a_token(node: Node, count: int = 150) -> float:
    """The median between the tokens of a stream."""
    with node.streaming("/v1/completions", prompt=[65, 66], max_tokens=count) as payloads:
        times = [time.monotonic() for _ in payloads]
    return statistics.median(after - before for before, after in itertools.pairwise(times))


@pytest.fixture(scope="module")
def quick() -> Iterator[Node]:
    """A node whose engine does not wait between steps, and goes on for very long."""
    script = {"go": {"say": "one two ", "step_s": 0.0, "ends": False}, "short": "ok"}
    models = {"scripted": {"script": script, "options": {"max_model_len": 1_000_000}}}
    with running_node(program="scripted_node.py", models=models) as node:
        yield node


def test_a_client_that_reads_nothing_slows_nobody_and_costs_no_memory(quick: Node) -> None:
    """Its tokens wait as one event, not as so many frames, and they are all there when it reads on."""
    tokens = 60_000
    process = psutil.Process(quick.process.pid)
    before = process.memory_info().rss
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        raw.connect(("127.0.0.1", quick.port))
        ask = {"messages": [{"role": "user", "content": "go"}], "max_tokens": tokens, "stream": True, "logprobs": True}
        raw.sendall(_request(**ask).replace(b"/v1/completions", b"/v1/chat/completions"))
        slowest = 0.0
        while quick.metric("vllm:generation_tokens_total") < tokens:
            started = time.monotonic()
            assert quick.chat("short").status_code == 200
            slowest = max(slowest, time.monotonic() - started)
        grown = process.memory_info().rss - before
        received = bytearray()
        while not received.endswith(b"0\r\n\r\n"):
            received += raw.recv(1 << 20)
    # 200 bytes and more a frame: 12 MB of them did not fit the socket's buffers, so they cannot have been made.
    frames = received.count(b"data: {")
    assert frames < tokens // 2
    assert received.count(b'"logprob":') == tokens
    assert slowest < 1.0
    assert grown < 60 * 2**20, f"{grown / 2**20:.0f} MiB"
    until(lambda: _is_idle(quick), 10)


@pytest.mark.timeout(120)
def test_a_thousand_idle_connections_slow_nobody() -> None:
    wanted = 1_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted + 200:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4_096), hard))
    with running_node() as node:  # it inherits the limit
        process = psutil.Process(node.process.pid)
        alone = _seconds_a_token(node)
        before = process.memory_info().rss
        with contextlib.ExitStack() as held:
            for _ in range(wanted):
                held.enter_context(_connect(node))
            until(lambda: process.num_fds() > wanted)
            beside = _seconds_a_token(node)
            grown = process.memory_info().rss - before
        assert beside < 5 * alone + 0.01
        assert grown < 100 * 2**20, f"{grown / 2**20:.0f} MiB"
        until(lambda: process.num_fds() < 100)
        assert _is_idle(node)


def test_cycles_of_broken_requests_leave_no_memory_behind(impatient: Node) -> None:
    process = psutil.Process(impatient.process.pid)

    def cycle() -> None:
        streams = [_connect(impatient) for _ in range(8)]
        for raw in streams:
            raw.sendall(_request(prompt=[65] * 2_000, max_tokens=2_000, stream=True, logprobs=5))
        for raw in streams:
            raw.recv(1_000)
            raw.close()
        until(lambda: _is_idle(impatient), 10)

    def rounds(number: int) -> None:
        threads = [threading.Thread(target=cycle) for _ in range(2)]
        for _ in range(number):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            threads = [threading.Thread(target=cycle) for _ in range(2)]

    rounds(5)
    before = process.memory_info().rss
    connections = len(process.net_connections())
    rounds(15)
    assert process.memory_info().rss - before < 25 * 2**20
    assert len(process.net_connections()) <= connections + 1
    assert _is_idle(impatient)
