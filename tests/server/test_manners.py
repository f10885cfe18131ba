"""Rate headers, cross-origin requests, HEAD and OPTIONS, bodies that are bombs."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from fake_engine import SLOW
from nodes import Node, running_node, until

from ostro.core.errors import ConfigError
from ostro.core.request import EngineStats, ModelCard
from ostro.web.cors import check_origins
from ostro.web.rate import HEADERS, Allowance

ORIGIN = "https://app.example"


def _limits(node: Node) -> dict[str, str]:
    return {name: value for name, value in node.http.get("/v1/models").headers.items() if name in HEADERS}


def test_rate_headers_tell_the_engines_room() -> None:
    with running_node(options={"max_num_seqs": 2, "max_waiting": 3}) as node:
        until(lambda: node.metric("vllm:num_requests_running") == 0)
        assert _limits(node) == {
            "x-ratelimit-limit-requests": "5",
            "x-ratelimit-remaining-requests": "5",
            "x-ratelimit-reset-requests": "0s",
            "x-ratelimit-limit-tokens": "1024",
            "x-ratelimit-remaining-tokens": "1024",
            "x-ratelimit-reset-tokens": "0s",
        }
        with node.streaming("/v1/completions", prompt=[SLOW, 65], max_tokens=200) as payloads:
            next(payloads)
            busy = _limits(node)
        assert busy["x-ratelimit-remaining-requests"] == "4"
        assert busy["x-ratelimit-remaining-tokens"] == "512"
        # The fake engine knows no pace, and what is not known is not told.
        assert "x-ratelimit-reset-requests" not in busy
        for answer in (node.chat("x"), node.chat("x", temperature=-1), node.chat("x", model="nope")):
            assert answer.headers["x-ratelimit-limit-requests"] == "5"
        assert not set(HEADERS) & set(node.http.get("/health/live").headers)


def test_a_reset_is_what_is_here_at_the_recent_pace() -> None:
    card = ModelCard(
        name="m",
        architecture="a",
        parameters=1,
        weight_bytes=1,
        dtype="float32",
        device="cpu",
        context=64,
        kv_tokens=100,
        max_requests=8,
    )

    class Engine:
        def __init__(self, **stats: Any) -> None:
            self.card = card
            self.stats = EngineStats(**stats)

    allowance = Allowance.of(Engine(running=2, waiting=7, kv_usage=0.255, drain_s=11.2))  # type: ignore[arg-type]  # a stand-in
    assert allowance == (8, 0, 100, 74, 11.2)
    assert allowance is not None
    assert allowance.headers()["x-ratelimit-reset-tokens"] == "12s"


def test_no_other_origin_may_read_by_default(node: Node) -> None:
    for method, path in (("GET", "/v1/models"), ("OPTIONS", "/v1/chat/completions"), ("GET", "/nothing"), ("GET", "/")):
        asked = {"origin": ORIGIN, "access-control-request-method": "POST"}
        answer = node.http.request(method, path, headers=asked)
        assert not [name for name in answer.headers if name.startswith("access-control")], (method, path)


def test_a_named_origin_may_call_and_is_asked_for_no_key_beforehand() -> None:
    with running_node(cors_origins=[ORIGIN], api_keys=["right"]) as node:
        asked = {
            "origin": ORIGIN,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        }
        preflight = node.http.options("/v1/chat/completions", headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == ORIGIN
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        refused = node.http.get("/v1/models", headers={"origin": ORIGIN})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == ORIGIN  # so that the page can read why
        answer = node.http.get("/v1/models", headers={"origin": ORIGIN, "authorization": "Bearer right"})
        assert "x-ratelimit-limit-requests" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        for stranger in ("https://evil.example", "https://app.example.evil.example", "null"):
            other = node.http.options("/v1/chat/completions", headers={**asked, "origin": stranger})
            assert other.status_code == 400
            assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("origin", ["app.example", "https://app.example/", "https://app.example/path", "https://A.b"])
def test_an_origin_that_no_browser_sends_is_refused_at_the_start(origin: str) -> None:
    with pytest.raises(ConfigError, match="origin"):
        check_origins([origin])


@pytest.mark.parametrize("origin", ["*", "http://localhost:3000", "https://app.example", "http://[::1]:80"])
def test_good_origins(origin: str) -> None:
    check_origins([origin])


def test_head_is_get_without_a_body(node: Node) -> None:
    for path in ("/", "/v1/models", "/health/live", "/openapi.json"):
        head, get = node.http.head(path), node.http.get(path)
        assert head.status_code == 200, path
        assert head.content == b""
        assert head.headers["content-type"] == get.headers["content-type"]
    assert node.http.head("/nothing").status_code == 404


def test_other_methods_are_told_what_there_is(node: Node) -> None:
    for method in ("OPTIONS", "PUT", "PATCH", "GET", "HEAD"):
        answer = node.http.request(method, "/v1/chat/completions")
        assert answer.status_code == 405, method
        assert answer.headers["allow"] == "POST"
    assert node.http.get("/v1/models?page=2&unknown").status_code == 200


def _post(node: Node, content: bytes) -> tuple[int, dict[str, Any], float]:
    started = time.monotonic()
    answer = node.http.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    return answer.status_code, answer.json(), time.monotonic() - started


def _nested(depth: int) -> dict[str, bytes]:
    deep = b"[" * depth + b"]" * depth
    objects = b'{"a":' * depth + b"1" + b"}" * depth
    say = b'"messages":[{"role":"user","content":"x"}]'
    return {
        "list": deep,
        "objects": objects,
        "unknown field": b"{" + say + b',"unknown":' + deep + b"}",
        "open": b'{"messages":' + b"[" * depth,
        "tools": b"{" + say + b',"tools":[{"type":"function","function":{"name":"f","parameters":' + objects + b"}}]}",
        "message": b'{"messages":[{"role":"user","content":"x","tool_calls":[' + objects + b"]}]}",
    }


@pytest.mark.parametrize("depth", [300, 5_000, 500_000])
@pytest.mark.parametrize("where", list(_nested(1)))
def test_deep_json_is_refused_at_once(node: Node, where: str, depth: int) -> None:
    status, body, seconds = _post(node, _nested(depth)[where])
    assert status == 400, body
    assert body["error"]["type"] == "invalid_request_error"
    assert seconds < 2
    assert node.chat("still there").status_code == 200


@pytest.mark.parametrize(
    ("content", "param"),
    [
        (b"", None),
        (b"null", None),
        (b"[]", None),
        (b"\xff\xfe", None),
        (b'{"messages": [{"role": "user", "content": "\xed\xa0\x80"}]}', None),
        (b"{}", "messages"),
        (b'{"messages": "x"}', "messages"),
        (b'{"messages": [{"role": 1}]}', "messages[0].role"),
        (b'{"messages": [{"role": "user", "content": "x"}], "n": 1e400}', "n"),
        (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 99999999999999999999999}', "max_tokens"),
        (b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}', "temperature"),
        (b'{"messages": [{"role": "user", "content": "x"}], "model": ""}', "model"),
    ],
)
def test_a_bad_body_is_400_and_names_the_field(node: Node, content: bytes, param: str | None) -> None:
    status, body, _ = _post(node, content)
    assert status in (400, 404), body
    assert body["error"]["param"] == param, body


def test_a_body_over_the_nodes_own_limit() -> None:
    with running_node(max_body_bytes=600) as node:
        assert node.chat("x" * 300, max_tokens=1).status_code == 200
        refused = node.chat("x" * 600)
        assert refused.status_code == 413
        assert refused.json()["error"]["code"] == "request_too_large"


def test_others_go_on_while_a_bomb_is_read(node: Node) -> None:
    """16 MB of JSON is validated on the loop; it must not take long."""
    text = json.dumps({"messages": [{"role": "user", "content": "x"}] * 300_000}).encode()[: 15 * 2**20]
    slowest = 0.0
    done = threading.Event()

    def watch() -> None:
        nonlocal slowest
        while not done.is_set():
            started = time.monotonic()
            node.http.get("/health/live")
            slowest = max(slowest, time.monotonic() - started)

    watcher = threading.Thread(target=watch)
    watcher.start()
    status, _, _ = _post(node, text)
    done.set()
    watcher.join()
    assert status == 400
    assert slowest < 1.5


def test_brackets_in_a_text_are_no_crowd(node: Node) -> None:
    text = '[{"\\' * 300_000
    answer = node.http.post("/v1/completions", json={"prompt": text, "max_tokens": 1})
    assert answer.json()["error"]["code"] == "context_length_exceeded", answer.text[:300]
    crowd = b'{"prompt": "x", "metadata": [' + b"[]," * 200_000 + b"[]]}"
    answer = node.http.post("/v1/completions", content=crowd, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert "objects and lists" in answer.json()["error"]["message"]
