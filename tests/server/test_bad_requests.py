"""Every bad request gets a clear error in a shape that both vendors' SDKs read, and the server goes on."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from fake_engine import SLOW, STUCK
from nodes import Node


def error_of(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body = response.json()
    fields = {name: body[name] for name in ("message", "type", "param", "code")}
    assert body["error"] == fields
    assert body["object"] == "error"
    assert response.headers["x-request-id"]
    return fields


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", 0),
        ("max_tokens", 2**80),
        ("max_completion_tokens", -5),
        ("temperature", -0.1),
        ("temperature", 1e9),
        ("temperature", "hot"),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", -2),
        ("min_p", 2),
        ("presence_penalty", 3),
        ("frequency_penalty", -3),
        ("repetition_penalty", 0),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"1": 1000}),
        ("n", 0),
        ("n", 10_000),
        ("seed", 2**70),
        ("stop", ["s"] * 10_000),
        ("stop", [""]),
        ("stop", 7),
        ("stop_token_ids", [-1]),
        ("stream", "yes"),
        ("priority", 10**9),
        ("timeout", 0),
        ("timeout", -3),
        ("min_tokens", 10**6),
        ("top_logprobs", 3),
        ("messages", []),
        ("messages", "hello"),
        ("messages", [{"role": "wizard", "content": "x"}]),
        ("messages", [{"content": "x"}]),
    ],
)
def test_out_of_range_parameters_name_their_field(node: Node, field: str, value: object) -> None:
    fields = error_of(node.chat("x", **{field: value}), 400)
    assert fields["type"] == "invalid_request_error"
    assert (fields["param"] or "").startswith(field)
    assert field.split("_")[-1] in fields["message"] or "role" in fields["message"]


def test_more_logprobs_than_allowed(node: Node) -> None:
    assert error_of(node.chat("x", logprobs=True, top_logprobs=21), 400)["param"] == "top_logprobs"


@pytest.mark.parametrize(
    "content",
    [b'{"messages": [', b"", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN', b'["not an object"]'],
)
def test_malformed_json_is_told_with_its_reason(node: Node, content: bytes) -> None:
    response = node.http.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    fields = error_of(response, 400)
    assert "JSON" in fields["message"] or "object" in fields["message"] or "dictionary" in fields["message"]


def test_not_a_number_is_refused(node: Node) -> None:
    response = node.http.post(
        "/v1/completions",
        content=b'{"prompt": "x", "temperature": NaN}',
        headers={"content-type": "application/json"},
    )
    assert error_of(response, 400)["param"] == "temperature"


@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_that_any_web_page_may_send_is_refused(node: Node, media: str) -> None:
    """Browsers send these across origins without asking; JSON they do not."""
    content = json.dumps({"prompt": "x"}).encode()
    response = node.http.post("/v1/completions", content=content, headers={"content-type": media} if media else {})
    assert "application/json" in error_of(response, 415)["message"]


def test_a_prompt_over_the_context_tells_both_lengths(node: Node) -> None:
    fields = error_of(node.chat("x" * 600), 400)
    assert fields["code"] == "context_length_exceeded"
    assert fields["param"] == "messages"
    assert "601" in fields["message"]
    assert "512" in fields["message"]
    fields = error_of(node.complete([1] * 500, max_tokens=100), 400)
    assert fields["param"] == "prompt"
    assert "500" in fields["message"]
    assert "100" in fields["message"]


def test_an_unknown_model_is_told_what_there_is(node: Node) -> None:
    for response in (node.chat("x", model="gpt-9"), node.complete("x", model="gpt-9")):
        fields = error_of(response, 404)
        assert fields["code"] == "model_not_found"
        assert "'gpt-9'" in fields["message"]
        assert "'fake'" in fields["message"]


def test_unknown_paths_and_methods(node: Node) -> None:
    assert error_of(node.http.get("/v1/nothing"), 404)["code"] == "not_found"
    assert error_of(node.http.get("/v1/chat/completions"), 405)["code"] == "method_not_allowed"
    assert error_of(node.http.get("/docs"), 404)


def test_a_body_over_the_limit_is_not_read(node: Node) -> None:
    """Declared or chunked."""
    with socket.create_connection(("127.0.0.1", node.port)) as raw:
        raw.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 99999999999\r\n\r\n"
        )
        assert raw.recv(4096).startswith(b"HTTP/1.1 413")

    def endless() -> Any:
        for _ in range(40):
            yield b" " * 500_000

    response = node.http.post("/v1/completions", content=endless(), headers={"content-type": "application/json"})
    assert error_of(response, 413)["code"] == "request_too_large"


def test_deadline_before_the_first_byte_is_504(node: Node) -> None:
    for stream in (False, True):
        fields = error_of(node.complete([STUCK], timeout=0.1, max_tokens=4, stream=stream), 504)
        assert fields["code"] == "deadline_exceeded"


def test_deadline_in_mid_stream_is_a_chunk_with_the_error(node: Node) -> None:
    with node.streaming("/v1/completions", prompt=[SLOW, 65], timeout=1.5, max_tokens=500) as payloads:
        *chunks, last, done = payloads
    assert chunks
    assert last["error"]["code"] == "deadline_exceeded"
    assert done == "[DONE]"


def test_request_ids_are_echoed_or_made(node: Node) -> None:
    given = node.http.get("/health/live", headers={"x-request-id": "abc-123"})
    assert given.headers["x-request-id"] == "abc-123"
    odd = node.http.get("/nothing", headers={"x-request-id": "a b;<script>"})
    assert odd.headers["x-request-id"].startswith("req-")
    assert node.chat("x").headers["x-request-id"] != node.chat("x").headers["x-request-id"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", ""])
def test_dns_rebinding_is_refused(node: Node, host: str) -> None:
    with socket.create_connection(("127.0.0.1", node.port)) as raw:
        raw.sendall(f"GET /health/live HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert raw.recv(4096).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:8000", "LOCALHOST:80"])
def test_loopback_names_are_let_in(node: Node, host: str) -> None:
    assert node.http.get("/health/live", headers={"host": host}).status_code == 200


def test_the_server_is_well_after_all_that(node: Node) -> None:
    assert node.chat("ok", max_tokens=3).json()["choices"][0]["message"]["content"] == "ok"
