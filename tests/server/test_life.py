"""Loading, queues, disconnects, deaths and drains of a real server process."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from typing import Any

import httpx2
import psutil
import pytest
from fake_engine import CRASH, SLOW, STUCK
from nodes import Node, running_node, until


def _children(node: Node) -> list[psutil.Process]:
    return psutil.Process(node.process.pid).children()


def test_the_server_answers_while_the_model_loads() -> None:
    with running_node(wait=False, model="slow") as node:
        until(lambda: _alive(node))
        assert node.http.get("/health/live").status_code == 200
        until(lambda: "reading nothing" in node.http.get("/health/ready").text)
        ready = node.http.get("/health/ready")
        assert ready.status_code == 503
        assert int(ready.headers["retry-after"]) >= 1
        refused = node.chat("x")
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert "loading" in refused.json()["error"]["message"]
        assert node.http.get("/v1/models").json()["data"][0]["state"] == "loading"
        assert node.http.get("/").status_code == 200


def _alive(node: Node) -> bool:
    try:
        return node.http.get("/health/live").status_code == 200
    except httpx2.TransportError:
        return False


def test_a_model_that_cannot_load_ends_the_server() -> None:
    with running_node(wait=False, model="missing") as node:
        assert node.process.wait(60) == 1


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_request(node: Node, stream: bool) -> None:
    before = node.metric("vllm:request_success_total", finished_reason="abort")
    body = json.dumps({"prompt": [SLOW, 65], "max_tokens": 400, "stream": stream}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", node.port)) as raw:
        raw.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        until(lambda: node.metric("vllm:num_requests_running") == 1)
        if stream:
            assert raw.recv(100).startswith(b"HTTP/1.1 200")
    # It would run for 20 seconds.
    until(lambda: node.metric("vllm:num_requests_running") == 0, 10)
    assert node.metric("vllm:request_success_total", finished_reason="abort") == before + 1


def test_a_stream_that_waits_gets_heartbeats(node: Node) -> None:
    """And a client that leaves before the first token is noticed too."""
    body = {"prompt": [STUCK], "max_tokens": 5, "stream": True}
    with node.http.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200
        lines = response.iter_lines()
        assert next(line for line in lines if line).startswith(":")
        assert node.metric("vllm:num_requests_running") == 1
    until(lambda: node.metric("vllm:num_requests_running") == 0)


def test_a_full_queue_is_429_with_retry_after_streamed_or_not() -> None:
    with running_node(options={"max_num_seqs": 1, "max_waiting": 1}) as node:
        bodies = [{"prompt": [SLOW, 65], "max_tokens": 400}] * 2
        blockers = [threading.Thread(target=_post_and_forget, args=(node.url, body)) for body in bodies]
        for blocker in blockers:
            blocker.start()
        until(lambda: node.metric("vllm:num_requests_waiting") == 1)
        for stream in (False, True):
            refused = node.complete("x", stream=stream)
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "3"
            assert refused.json()["error"]["code"] == "queue_full"
        # One prompt of many that does not fit takes the others with it.
        assert node.complete([[65], [66]]).status_code == 429
        assert node.metric("vllm:num_requests_waiting") == 1
        node.process.kill()
        for blocker in blockers:
            blocker.join(60)


def _post_and_forget(url: str, body: dict[str, Any]) -> None:
    with httpx2.Client(base_url=url, trust_env=False) as client:
        try:
            client.post("/v1/completions", json=body, timeout=120)
        except httpx2.TransportError:
            return  # The test ends the server under it.


def test_a_killed_engine_fails_its_requests_and_comes_back() -> None:
    with running_node() as node:
        (engine,) = _children(node)
        with node.streaming("/v1/completions", prompt=[SLOW, 65], max_tokens=400) as payloads:
            next(payloads)
            engine.kill()
            *_, last, done = payloads
        assert last["error"]["code"] == "engine_dead"
        assert "SIGKILL" in last["error"]["message"]
        assert done == "[DONE]"
        refused = node.complete("x")
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert node.http.get("/health/ready").status_code == 503
        assert node.http.get("/health/live").status_code == 200
        node.wait_ready()
        assert node.complete("ok", max_tokens=3).json()["choices"][0]["text"] == "ok"
        assert _children(node)[0].pid != engine.pid


def test_an_engine_that_dies_before_the_first_token_is_503() -> None:
    with running_node() as node:
        refused = node.complete([CRASH])
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "engine_dead"
        node.wait_ready()


def test_sigterm_drains_and_exits_with_0() -> None:
    with running_node(grace_s=60) as node, httpx2.Client(base_url=node.url, trust_env=False, timeout=60) as other:
        other.get("/health/live")  # a connection that is open before the drain
        (engine,) = _children(node)
        with node.streaming("/v1/completions", prompt=[SLOW, 65], max_tokens=60) as payloads:
            next(payloads)
            node.terminate()
            until(lambda: other.get("/health/ready").status_code == 503)
            refused = other.post("/v1/completions", json={"prompt": "x"})
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
            assert "shutting down" in refused.json()["error"]["message"]
            *_, last, done = payloads
        assert last["choices"][0]["finish_reason"] == "length"
        assert done == "[DONE]"
        assert node.process.wait(60) == 0
        assert not engine.is_running()


def test_what_outlasts_the_grace_is_dropped_and_the_exit_is_still_0() -> None:
    with running_node(grace_s=0.3) as node:
        with node.streaming("/v1/completions", prompt=[SLOW, 65], max_tokens=400) as payloads:
            next(payloads)
            node.terminate()
            *_, last, _ = payloads
        assert "shut down" in last["error"]["message"]
        assert node.process.wait(60) == 0


def test_killing_the_server_ends_its_engine() -> None:
    with running_node() as node:
        (engine,) = _children(node)
        os.kill(node.process.pid, signal.SIGKILL)
        until(lambda: not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE)


def test_readiness_is_a_real_pass_and_probes_share_it(node: Node) -> None:
    time.sleep(1.1)
    before = node.metric("vllm:generation_tokens_total")
    for _ in range(5):
        assert node.http.get("/health/ready").status_code == 200
    assert 1 <= node.metric("vllm:generation_tokens_total") - before <= 2


def test_metrics_count_what_was_served(node: Node) -> None:
    before = {
        name: node.metric(name)
        for name in (
            "vllm:time_to_first_token_seconds_count",
            "vllm:inter_token_latency_seconds_count",
            "vllm:e2e_request_latency_seconds_count",
        )
    }
    done = node.metric("vllm:request_success_total", finished_reason="length")
    tokens = node.metric("vllm:generation_tokens_total")
    node.complete([65], max_tokens=10)
    after = {name: node.metric(name) - count for name, count in before.items()}
    assert after["vllm:time_to_first_token_seconds_count"] == 1
    assert 1 <= after["vllm:inter_token_latency_seconds_count"] <= 9
    assert after["vllm:e2e_request_latency_seconds_count"] == 1
    assert node.metric("vllm:request_success_total", finished_reason="length", model_name="fake") == done + 1
    assert node.metric("vllm:generation_tokens_total") >= tokens + 10
    text = node.http.get("/metrics").text
    for name in (
        "kv_cache_usage_perc",
        "prefix_cache_queries_total",
        "prefix_cache_hits_total",
        "num_preemptions_total",
    ):
        assert f"vllm:{name}{{" in text
