"""Completions in full: echo with log-probabilities, best_of, and fim."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from nodes import Node, scripted_node


@pytest.fixture(scope="module")
def scripted() -> Iterator[Node]:
    with scripted_node({"def f": "    return 1"}) as node:
        yield node


def test_echo_repeats_the_prompt_with_its_log_probabilities(scripted: Node) -> None:
    choice = scripted.complete("def f", echo=True, logprobs=1, max_tokens=2).json()["choices"][0]
    logprobs = choice["logprobs"]
    assert choice["text"].startswith("def f")
    assert logprobs["token_logprobs"][0] is None
    assert set(logprobs["token_logprobs"][1:-2]) == {-1.0}
    assert logprobs["token_logprobs"][-2:] == [-0.5, -0.5]
    assert len(logprobs["tokens"]) == len(logprobs["text_offset"]) == len(logprobs["top_logprobs"])
    assert logprobs["text_offset"][:2] == [0, 0]  # the token that begins a sequence is no text
    assert "".join(logprobs["tokens"][1:]) == choice["text"]


def test_with_no_tokens_to_make_only_the_prompt_is_scored(scripted: Node) -> None:
    body = scripted.complete("def f", echo=True, logprobs=0, max_tokens=0).json()
    assert body["choices"][0]["text"] == "def f"
    assert len(body["choices"][0]["logprobs"]["tokens"]) == body["usage"]["prompt_tokens"]
    assert body["usage"]["completion_tokens"] == 0
    assert scripted.complete("def f", max_tokens=0).json()["error"]["param"] == "max_tokens"


def test_a_streamed_echo_is_the_same(scripted: Node) -> None:
    fields = {"prompt": "def f", "echo": True, "logprobs": 1, "max_tokens": 3}
    whole = scripted.complete(**fields).json()["choices"][0]
    with scripted.streaming("/v1/completions", **fields) as payloads:
        chunks = [payload["choices"][0] for payload in payloads if payload != "[DONE]"]
    assert "".join(chunk["text"] for chunk in chunks) == whole["text"]
    for field in ("tokens", "token_logprobs", "text_offset"):
        assert [one for chunk in chunks for one in chunk["logprobs"][field]] == whole["logprobs"][field]


def test_best_of_shows_the_likeliest_and_counts_all(node: Node) -> None:
    body = node.complete("abcdefgh", best_of=4, n=2, max_tokens=5).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert all(choice["logprobs"] is None for choice in body["choices"])
    assert body["usage"]["completion_tokens"] == 20


def test_fim_asks_for_what_is_between(scripted: Node) -> None:
    fields = {"prompt": "def f", "suffix": "\n\nprint(f())", "max_tokens": 20}
    answer = scripted.http.post("/v1/fim/completions", json=fields).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["content"] == "    return 1"
    plain = scripted.complete("def f", max_tokens=1).json()["usage"]["prompt_tokens"]
    assert answer["usage"]["prompt_tokens"] > plain
    with scripted.streaming("/v1/fim/completions", **fields) as payloads:
        chunks = [payload["choices"][0]["delta"].get("content", "") for payload in payloads if payload != "[DONE]"]
    assert "".join(chunks) == "    return 1"
    assert scripted.complete("def f", suffix="x", max_tokens=20).json()["choices"][0]["text"] == "    return 1"
