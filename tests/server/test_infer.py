"""`/v1/infer`, and `Client.infer` over it and over servers that do not have it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
from nodes import Node, scripted_node

from mistral_sdk import Client


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with scripted_node({"hello": "hi there", "forever": {"say": "more ", "ends": False}}) as running:
        yield running


def test_one_input_one_answer(node: Node) -> None:
    body = {"inputs": {"text": "hello"}, "max_tokens": 20}
    answer = node.http.post("/v1/infer", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["text"], found["finish_reason"], found["labels"]) == ("hi there", "stop", [])
    assert found["model"] == "scripted"
    assert found["cost"] is None
    assert found["usage"]["completion_tokens"] > 1
    cut = node.http.post("/v1/infer", json={"inputs": {"text": "forever"}, "max_tokens": 3}).json()
    assert cut["finish_reason"] == "length"


def test_inputs_may_stand_in_the_body_itself(node: Node) -> None:
    answer = node.http.post("/v1/infer", json={"text": "hello", "model": "scripted", "max_tokens": 20})
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"] == "hi there"
    assert "x-ostro-ignored" not in answer.headers
    within = node.http.post("/v1/infer", json={"inputs": {"text": "hello"}, "max_tokens": 20, "text": None})
    answered = {name: value for name, value in answer.json().items() if name != "id"}
    cached = {"usage": {**answered["usage"], "prompt_tokens_details": within.json()["usage"]["prompt_tokens_details"]}}
    assert answered | cached == {name: value for name, value in within.json().items() if name != "id"}


def test_what_it_has_no_place_for_is_named(node: Node) -> None:
    body = {"inputs": {"text": "hello"}, "return_token_ids": True, "odd": 1, "max_tokens": 1}
    assert node.http.post("/v1/infer", json=body).headers["x-ostro-ignored"] == "odd, return_token_ids"


def test_the_client_uses_it(node: Node) -> None:
    with Client(api_key="k", endpoint=node.url) as client:
        result = client.infer(inputs={"text": "hello"}, mode="auto", max_tokens=20)
    assert (result.text, result.route, result.labels) == ("hi there", "edge", [])
    assert result.usage.completion_tokens > 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "inputs"),
        ({"inputs": {}}, "inputs.text"),
        ({"inputs": {"text": ""}}, "inputs.text"),
        ({"inputs": {"text": "a", "image": "x"}}, "inputs.image"),
        ({"inputs": {"text": "a"}, "stream": True}, "stream"),
        ({"inputs": {"text": "a"}, "n": 2}, "n"),
        ({"inputs": {"text": "a"}, "temperature": -1}, "temperature"),
        ({"inputs": {"text": "long " * 20_000}}, "inputs.text"),
        ({"inputs": {"smell": "a"}}, "inputs.smell"),
        ({"text": ""}, "text"),
        ({"text": 3}, "text"),
        ({"text": "a", "image": "x"}, "image"),
        ({"text": "a", "series": [1.0]}, "series"),
        ({"text": "long " * 20_000}, "text"),
        ({"inputs": {"text": "a"}, "text": "a"}, "text"),
        ({"inputs": {}, "image": "a"}, "image"),
        ({"inputs": None, "text": None}, "inputs"),
    ],
)
def test_refusals_name_the_field(node: Node, body: dict[str, Any], param: str) -> None:
    answer = node.http.post("/v1/infer", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


class ChatOnly(BaseHTTPRequestHandler):
    """A server that knows OpenAI's chat alone."""

    paths: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.paths.append(self.path)
        known = self.path == "/v1/chat/completions"
        said = f"you said {body['messages'][0]['content']}" if known else ""
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        answer = json.dumps({"choices": [choice], "usage": usage} if known else {"detail": "Not Found"}).encode()
        self.send_response(200 if known else 404)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def test_other_servers_are_asked_by_chat() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), ChatOnly)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with Client(api_key="k", endpoint=f"http://127.0.0.1:{server.server_port}") as client:
            result = client.infer(inputs={"text": "hello"})
        assert result.text == "you said hello"
        assert result.usage.completion_tokens == 2
        assert ChatOnly.paths == ["/v1/infer", "/v1/chat/completions"]
    finally:
        server.shutdown()
        server.server_close()
