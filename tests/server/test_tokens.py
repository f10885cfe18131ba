"""`/tokenize` and `/detokenize` give what chat and completions use, and take it back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from nodes import Node, scripted_node

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
MESSAGES = [{"role": "user", "content": "hello 日本"}]


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with scripted_node({"hello": "hi"}) as running:
        yield running


def post(node: Node, path: str, **body: Any) -> Any:
    answer = node.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("root", ["", "/v1"])
def test_a_prompt_there_and_back(node: Node, root: str) -> None:
    text = "hello 日本 [INST] é"
    found = post(node, f"{root}/tokenize", prompt=text, return_token_strs=True)
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert found["max_model_len"] > 0
    assert found["tokens"][0] == 1
    bare = post(node, f"{root}/tokenize", prompt=text, add_special_tokens=False)
    assert bare["tokens"] == found["tokens"][1:]
    assert "token_strs" not in bare or bare["token_strs"] is None
    assert post(node, f"{root}/detokenize", tokens=found["tokens"]) == {"prompt": text}
    shown = post(node, f"{root}/detokenize", tokens=found["tokens"], skip_special_tokens=False)
    assert shown == {"prompt": "<s>" + text}


def test_counts_are_those_that_answers_are_charged(node: Node) -> None:
    for fields in ({}, {"tools": [TOOL]}):
        found = post(node, "/tokenize", messages=MESSAGES, **fields)
        usage = node.http.post("/v1/chat/completions", json={"messages": MESSAGES, **fields}).json()["usage"]
        assert found["count"] == usage["prompt_tokens"]
    found = post(node, "/tokenize", prompt="hello")
    assert node.complete("hello").json()["usage"]["prompt_tokens"] == found["count"]


def test_a_continued_message_has_no_end(node: Node) -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": "so"}]
    found = post(node, "/tokenize", messages=messages, continue_final_message=True)
    assert post(node, "/detokenize", tokens=found["tokens"][-1:], skip_special_tokens=False)["prompt"].endswith("so")


def test_effort_without_a_place_is_named(node: Node) -> None:
    answer = node.http.post("/tokenize", json={"messages": MESSAGES, "reasoning_effort": "high", "odd": 1})
    assert answer.headers["x-ostro-ignored"] == "odd, reasoning_effort"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "prompt"),
        ("/tokenize", {"prompt": "a", "tools": [TOOL]}, "tools"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role"),
        ("/tokenize", {"messages": MESSAGES, "tools": [{}]}, "tools[0]"),
        ("/detokenize", {"tokens": [1, -1]}, "tokens[1]"),
        ("/detokenize", {"tokens": [10**9]}, "tokens[0]"),
        ("/detokenize", {"tokens": ["a"]}, "tokens"),
        ("/detokenize", {}, "tokens"),
    ],
)
def test_refusals_name_the_field(node: Node, path: str, body: dict[str, Any], param: str) -> None:
    answer = node.http.post(path, json=body)
    assert answer.status_code == 400, answer.text
    assert str(answer.json()["error"]["param"]).startswith(param), answer.text
    assert post(node, "/tokenize", prompt="a")["count"]


def test_unknown_models_are_not_found(node: Node) -> None:
    assert node.http.post("/tokenize", json={"model": "other", "prompt": "a"}).status_code == 404
