"""`/v1/completions` on a real socket."""

from __future__ import annotations

import pytest
from nodes import Node, running_node


def test_a_text_prompt(node: Node) -> None:
    body = node.complete("hello", max_tokens=6).json()
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert body["choices"] == [{"index": 0, "text": "hello", "logprobs": None, "finish_reason": "length"}]
    assert body["usage"]["prompt_tokens"] == 6


def test_sixteen_tokens_by_default(node: Node) -> None:
    assert node.complete("a").json()["usage"]["completion_tokens"] == 16


def test_prompts_of_every_kind(node: Node) -> None:
    def texts(prompt: object) -> list[str]:
        body = node.complete(prompt, max_tokens=3).json()
        assert [choice["index"] for choice in body["choices"]] == list(range(len(body["choices"])))
        return [choice["text"] for choice in body["choices"]]

    assert texts([65, 66, 67]) == ["ABC"]
    assert texts([[65, 66, 67], [68]]) == ["ABC", "DDD"]
    assert texts(["xy", "z"]) == ["xy", "z" + ""]


def test_n_of_several_prompts_are_numbered_by_prompt(node: Node) -> None:
    body = node.complete([[65], [66]], n=2, max_tokens=2).json()
    assert [choice["text"] for choice in body["choices"]] == ["AA", "AA", "BB", "BB"]
    assert body["usage"]["prompt_tokens"] == 2
    assert body["usage"]["completion_tokens"] == 8


def test_token_ids_on_request(node: Node) -> None:
    body = node.complete([65, 66], max_tokens=3, return_token_ids=True).json()
    assert body["choices"][0]["token_ids"] == [65, 66, 65]


def test_eos_stops_unless_ignored(node: Node) -> None:
    stopped = node.complete([65, 257], max_tokens=4).json()["choices"][0]
    assert (stopped["text"], stopped["finish_reason"]) == ("A", "stop")
    ignored = node.complete([65, 257], max_tokens=4, ignore_eos=True).json()["choices"][0]
    assert (ignored["text"], ignored["finish_reason"]) == ("AA", "length")
    longer = node.complete([65, 257], max_tokens=5, min_tokens=2).json()["choices"][0]
    assert (longer["text"], longer["finish_reason"]) == ("AA", "stop")


def test_echo(node: Node) -> None:
    assert node.complete("hey", echo=True, max_tokens=4).json()["choices"][0]["text"] == "heyhey"
    assert node.complete([65, 66], echo=True, max_tokens=1).json()["choices"][0]["text"] == "ABA"
    with node.streaming("/v1/completions", prompt="hey", echo=True, max_tokens=4) as payloads:
        texts = [payload["choices"][0]["text"] for payload in payloads if payload != "[DONE]"]
    assert texts[0] == "hey"
    assert "".join(texts) == "heyhey"


def test_logprobs_have_parallel_lists(node: Node) -> None:
    logprobs = node.complete([65, 66], logprobs=2, max_tokens=3).json()["choices"][0]["logprobs"]
    assert logprobs == {
        "tokens": ["A", "B", "A"],
        "token_logprobs": [-0.5, -0.5, -0.5],
        "top_logprobs": [{"A": -0.5, "B": -1.5}, {"B": -0.5, "C": -1.5}, {"A": -0.5, "B": -1.5}],
        "text_offset": [0, 1, 2],
    }
    with node.streaming("/v1/completions", prompt=[65, 66], logprobs=0, max_tokens=3) as payloads:
        chunks = [payload["choices"][0]["logprobs"] for payload in payloads if payload != "[DONE]"]
    assert [offset for chunk in chunks for offset in chunk["text_offset"]] == [0, 1, 2]
    assert chunks[0]["top_logprobs"] is None


def test_a_stream_ends_with_done(node: Node) -> None:
    with node.streaming("/v1/completions", prompt="hello", max_tokens=6) as payloads:
        *chunks, done = payloads
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "hello"
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"best_of": 17}, "best_of"),
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"suffix": "x", "prompt": [1]}, "suffix"),
        ({"suffix": "x", "echo": True}, "suffix"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [[1]] * 129}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [2**80]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
    ],
)
def test_what_is_refused(node: Node, fields: dict[str, object], param: str) -> None:
    response = node.complete(**{"prompt": "x", **fields})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"].startswith(param)


def test_a_model_without_a_tokenizer_takes_and_gives_token_ids() -> None:
    with running_node(tokenizer=False) as bare:
        choice = bare.complete([300, 7], max_tokens=3, logprobs=1).json()["choices"][0]
        assert choice["token_ids"] == [300, 7, 300]
        assert choice["text"] == ""
        assert choice["logprobs"]["tokens"][0] == "token_id:300"
        for response in (bare.complete("text"), bare.chat("text"), bare.complete([1], stop="x")):
            assert response.status_code == 400
            assert "token" in response.json()["error"]["message"]
