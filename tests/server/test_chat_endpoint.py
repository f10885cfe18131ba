"""`/v1/chat/completions` and `/v1/models` on a real socket."""

from __future__ import annotations

from typing import Any

import pytest
from nodes import Node


def test_an_answer_has_openais_shape(node: Node) -> None:
    response = node.chat("hello", max_tokens=6, model="fake")
    assert response.status_code == 200
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert body["model"] == "fake"
    (choice,) = body["choices"]
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": "hello"},
        "logprobs": None,
        "finish_reason": "length",
    }
    assert body["usage"] == {
        "prompt_tokens": 6,
        "completion_tokens": 6,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_a_stream_starts_with_the_role_and_ends_with_usage_and_done(node: Node) -> None:
    fields: dict[str, Any] = {"messages": [{"role": "user", "content": "héllo"}], "max_tokens": 7}
    with node.streaming("/v1/chat/completions", stream_options={"include_usage": True}, **fields) as payloads:
        *chunks, done = payloads
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    *pieces, last = chunks[1:]
    assert "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces) == "héllo"
    assert [piece["choices"][0]["finish_reason"] for piece in pieces][-1] == "length"
    assert all(piece["usage"] is None for piece in pieces)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 14


def test_usage_is_absent_where_it_was_not_asked_for(node: Node) -> None:
    messages = [{"role": "user", "content": "x"}]
    with node.streaming("/v1/chat/completions", messages=messages, max_tokens=2) as payloads:
        chunks = [payload for payload in payloads if payload != "[DONE]"]
    assert chunks
    assert not any("usage" in chunk for chunk in chunks)


def test_stop_strings_end_the_answer_and_the_engines_work(node: Node) -> None:
    aborted = node.metric("vllm:request_success_total", finished_reason="stop")
    body = node.chat("one two three", stop=["wo t", "zzz"], max_tokens=400).json()
    assert body["choices"][0]["message"]["content"] == "one t"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == 10  # with the begin-of-text token and the stop string itself
    assert node.metric("vllm:request_success_total", finished_reason="stop") == aborted + 1
    assert node.metric("vllm:num_requests_running") == 0


def test_n_choices_differ_by_their_seeds_and_the_prompt_counts_once(node: Node) -> None:
    body = node.chat("abcdefgh", n=3, max_tokens=9).json()
    texts = [choice["message"]["content"] for choice in body["choices"]]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert texts[0] == "abcdefgh"
    assert all(sorted(text) == list("abcdefgh") for text in texts)
    assert len(set(texts)) > 1
    assert body["usage"]["prompt_tokens"] == 9
    assert body["usage"]["completion_tokens"] == 27


def test_a_stream_of_n_choices_carries_all_of_them(node: Node) -> None:
    fields: dict[str, Any] = {"messages": [{"role": "user", "content": "abcdefgh"}], "max_tokens": 9, "n": 3}
    with node.streaming("/v1/chat/completions", **fields) as payloads:
        chunks = [payload for payload in payloads if payload != "[DONE]"]
    texts = ["", "", ""]
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
    whole = node.chat("abcdefgh", n=3, max_tokens=9).json()
    assert texts == [choice["message"]["content"] for choice in whole["choices"]]


def test_logprobs(node: Node) -> None:
    body = node.chat("A€", logprobs=True, top_logprobs=3, max_tokens=3).json()
    content = body["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == ["<s>", "A", "bytes:\\xe2"]
    assert content[1]["bytes"] == [65]
    assert content[1]["logprob"] == -0.5
    assert [top["token"] for top in content[1]["top_logprobs"]] == ["A", "B", "C"]
    assert content[1]["top_logprobs"][2]["logprob"] == -9999.0
    assert node.chat("A", logprobs=True).json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


def test_streamed_logprobs_are_one_entry_a_token(node: Node) -> None:
    fields: dict[str, Any] = {"messages": [{"role": "user", "content": "a€"}], "max_tokens": 5, "logprobs": True}
    with node.streaming("/v1/chat/completions", **fields) as payloads:
        entries = [
            entry
            for payload in payloads
            if payload != "[DONE]"
            for choice in payload["choices"]
            for entry in (choice["logprobs"] or {"content": []})["content"]
        ]
    assert len(entries) == 5


def test_text_parts_are_joined_and_other_parts_are_refused(node: Node) -> None:
    parts = [{"type": "text", "text": "he"}, {"type": "text", "text": "y"}]
    body = node.http.post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": parts}], "max_tokens": 4, "seed": 0}
    )
    assert body.json()["choices"][0]["message"]["content"] == "hey"
    parts.append({"type": "image_url", "image_url": {"url": "http://x/y.png"}})  # type: ignore[dict-item]  # of another type than the texts
    refused = node.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": parts}]})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "messages[0].content[2].type"


def test_unknown_fields_are_ignored_aloud(node: Node) -> None:
    response = node.chat("x", reasoning_effort="high", user="me", **{"a\r\nb": 1})
    assert response.status_code == 200
    assert response.headers["x-ostro-ignored"] == "?, reasoning_effort, user"
    assert "x-ostro-ignored" not in node.chat("x").headers


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("functions", [{"name": "f"}]),
        ("guardrails", [{"block_on_error": True}]),
        ("modalities", ["audio"]),
    ],
)
def test_what_would_change_the_answers_meaning_is_refused(node: Node, field: str, value: Any) -> None:
    response = node.chat("x", **{field: value})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field
    assert response.json()["error"]["code"] == "unsupported_parameter"


def test_mistrals_seed_name_is_understood(node: Node) -> None:
    one = node.chat("abcdef", seed=None, random_seed=3, max_tokens=7).json()
    two = node.chat("abcdef", seed=3, max_tokens=7).json()
    assert one["choices"][0]["message"] == two["choices"][0]["message"]
    assert one["choices"][0]["message"]["content"] != "abcdef"


def test_models(node: Node) -> None:
    listed = node.http.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["fake"]
    one = node.http.get("/v1/models/fake").json()
    assert one["max_context_length"] == 512
    assert one["ready"] is True
    assert one["type"] == "base"  # mistralai's client refuses a list without it
    missing = node.http.get("/v1/models/owner/none")
    assert missing.status_code == 404
    assert "'fake'" in missing.json()["error"]["message"]
