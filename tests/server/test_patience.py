"""Streams that wait for their model to be loaded: they open, beat, and tell what goes wrong."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from nodes import Node, running_node, until

MIB = 2**20
ONE = {"weights": 4, "kv": 400 * MIB, "overhead": 0}
MODELS = {
    "first": {"model": "m", "footprint": ONE},
    "late": {"model": "takes 1.5", "footprint": ONE},
    "never": {"model": "missing", "footprint": ONE},
}
USER = [{"role": "user", "content": "hello"}]
# Path, body, what is at the end of a stream that went well.
APIS: dict[str, tuple[str, dict[str, Any], str]] = {
    "chat": ("/v1/chat/completions", {"messages": USER, "max_tokens": 3}, "[DONE]"),
    "completions": ("/v1/completions", {"prompt": "hello", "max_tokens": 3}, "[DONE]"),
    "responses": ("/v1/responses", {"input": "hello", "max_output_tokens": 3}, "response.incomplete"),
    "messages": ("/v1/messages", {"messages": USER, "max_tokens": 3}, "message_stop"),
}


@pytest.fixture
def node() -> Iterator[Node]:
    pool = {"budget": 900 * MIB, "retry_s": 0.5}
    with running_node(models=MODELS, pool=pool, heartbeat_s=0.3) as running:
        yield running


def lines(node: Node, api: str, model: str) -> tuple[float, list[str]]:
    """Seconds to the first line of a stream, and all its lines."""
    path, body, _ = APIS[api]
    started = time.monotonic()
    with node.http.stream("POST", path, json={**body, "model": model, "stream": True}) as response:
        assert response.status_code == 200, response.read()
        first, found = 0.0, []
        for line in response.iter_lines():
            first = first or time.monotonic() - started
            found += [line] if line else []
    return first, found


def said(found: list[str]) -> str:
    """What the answer's pieces say together, in whichever of the shapes."""
    text = ""
    for line in found:
        if line.startswith("data: {"):
            event = json.loads(line[6:])
            delta = event.get("delta", {})
            text += delta if isinstance(delta, str) else delta.get("text", "")
            for choice in event.get("choices", ()):
                text += choice.get("text", "") or choice.get("delta", {}).get("content", "")
    return text


@pytest.mark.parametrize("api", APIS)
def test_a_stream_beats_while_its_model_is_loaded(node: Node, api: str) -> None:
    first, found = lines(node, api, "late")
    assert first < 1.0
    beats = [line for line in found if line == ": keep-alive" or "ping" in line]
    assert len(beats) >= 2
    assert APIS[api][2] in found[-1]
    assert said(found)
    _, again = lines(node, api, "late")  # now it is there
    assert said(again)
    assert not [line for line in again if line in beats]


@pytest.mark.parametrize(
    ("api", "effort", "named"),
    [
        ("chat", {"reasoning_effort": "high"}, "reasoning_effort"),
        ("responses", {"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ("messages", {"output_config": {"effort": "high"}}, "output_config.effort"),
    ],
)
def test_what_the_model_has_no_place_for_is_named_before_it_is_there(
    node: Node, api: str, effort: dict[str, Any], named: str
) -> None:
    path, body, _ = APIS[api]
    for _ in range(2):  # while it is loaded, and when it is there
        answer = node.http.post(path, json={**body, **effort, "model": "late", "stream": True})
        assert answer.headers["x-ostro-ignored"] == named


@pytest.mark.parametrize("api", APIS)
def test_a_load_that_fails_in_time_is_a_status_and_later_an_event(node: Node, api: str) -> None:
    path, body, _ = APIS[api]
    answer = node.http.post(path, json={**body, "model": "never", "stream": True})
    if answer.status_code == 200:  # the stream was open before the load had failed
        told = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        assert "could not be loaded" in str(told[-1]["error"])
        if api in ("chat", "completions"):
            assert told[-1]["error"]["status"] == 503
            assert told[-1]["error"]["retry_after"] >= 1
    else:
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
    assert node.http.post(path, json={**body, "model": "first"}).status_code == 200


def test_what_is_not_streamed_waits_for_its_status(node: Node) -> None:
    started = time.monotonic()
    answer = node.complete("hello", model="late", max_tokens=3)
    assert answer.status_code == 200
    assert time.monotonic() - started > 1.0


def test_a_client_that_leaves_meanwhile_leaves_nothing(node: Node) -> None:
    path, body, _ = APIS["chat"]
    content = json.dumps({**body, "model": "late", "stream": True}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", node.port)) as raw:
        raw.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        with contextlib.suppress(TimeoutError):
            raw.settimeout(0.7)
            assert b"200" in raw.recv(4096)
    until(lambda: node.http.get("/v1/models/late").json()["state"] in ("ready", "unloaded"))
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    until(lambda: all(node.metric(name, model_name="late") == 0 for name in names))
    assert node.complete("hello", model="late", max_tokens=3).status_code == 200
    # Nothing holds it any more.
    assert node.http.post("/v1/models/late/unload", json={}).status_code == 200
    assert psutil.pid_exists(node.process.pid)
