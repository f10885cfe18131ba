"""Tools and reasoning through HTTP, whole and streamed, for every form that the tokenizer's versions have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from nodes import Node, scripted_node

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]
PARIS, NOW = '{"city": "Paris"}', "{}"
CALLS = {
    "v3": f'[TOOL_CALLS][{{"name": "weather", "arguments": {PARIS}, "id": "abcDEF123"}}, '
    f'{{"name": "now", "arguments": {NOW}, "id": "abcDEF124"}}]',
    "v7": f'[TOOL_CALLS][{{"name": "weather", "arguments": {PARIS}, "id": "abcDEF123"}}, '
    f'{{"name": "now", "arguments": {NOW}, "id": "abcDEF124"}}]',
    "v11": f"[TOOL_CALLS]weather[CALL_ID]abcDEF123[ARGS]{PARIS}[TOOL_CALLS]now[CALL_ID]abcDEF124[ARGS]{NOW}",
    "v13": f"[TOOL_CALLS]weather[ARGS]{PARIS}[TOOL_CALLS]now[ARGS]{NOW}",
    "v15": f"[TOOL_CALLS]weather[ARGS]{PARIS}[TOOL_CALLS]now[ARGS]{NOW}",
}
THOUGHT = "[THINK]Paris is in France.[/THINK]"


@pytest.fixture(scope="module", params=sorted(CALLS))
def scripted(request: pytest.FixtureRequest) -> Iterator[Node]:
    calls = CALLS[request.param]
    script = {
        "Paris": f"Let me look.{calls}",
        "think": f"{THOUGHT}{calls}",
        "ponder": f"{THOUGHT}It is warm.",
        "written": "<think>No token for this.</think>It is warm.",
        "21 degrees": "It is warm.",
    }
    with scripted_node(script, version=request.param) as node:
        yield node


def streamed(node: Node, text: str, **fields: Any) -> tuple[dict[str, Any], str]:
    """The message that a client joins from the deltas, and the finish reason."""
    message: dict[str, Any] = {"content": "", "reasoning": "", "calls": {}}
    reason = ""
    with node.streaming("/v1/chat/completions", messages=[{"role": "user", "content": text}], **fields) as payloads:
        for payload in payloads:
            if payload == "[DONE]":
                break
            (choice,) = payload["choices"]
            delta = choice["delta"]
            message["content"] += delta.get("content", "")
            message["reasoning"] += delta.get("reasoning_content", "")
            for call in delta.get("tool_calls", []):
                joined = message["calls"].setdefault(call["index"], {"id": "", "name": "", "arguments": ""})
                joined["id"] += call.get("id", "")
                joined["name"] += call["function"]["name"]
                joined["arguments"] += call["function"]["arguments"]
            reason = choice["finish_reason"] or reason
    return message, reason


def test_parallel_calls_come_as_calls(scripted: Node) -> None:
    choice = scripted.chat("Paris", tools=TOOLS, max_tokens=200).json()["choices"][0]
    calls = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me look."
    assert [call["function"]["name"] for call in calls] == ["weather", "now"]
    assert [json.loads(call["function"]["arguments"]) for call in calls] == [{"city": "Paris"}, {}]
    assert all(len(call["id"]) == 9 and call["id"].isalnum() and call["type"] == "function" for call in calls)
    assert len({call["id"] for call in calls}) == 2


def test_joined_deltas_are_the_whole_answer(scripted: Node) -> None:
    for text in ("Paris", "think", "ponder"):
        message, reason = streamed(scripted, text, tools=TOOLS, max_tokens=200)
        choice = scripted.chat(text, tools=TOOLS, max_tokens=200).json()["choices"][0]
        whole = choice["message"]
        assert reason == choice["finish_reason"]
        assert message["content"] == (whole["content"] or "")
        assert message["reasoning"] == whole.get("reasoning_content", "")
        named = [(call["function"]["name"], call["function"]["arguments"]) for call in whole.get("tool_calls", [])]
        assert [(call["name"], call["arguments"]) for call in message["calls"].values()] == named


def test_reasoning_stands_beside_the_content_and_is_counted(scripted: Node) -> None:
    body = scripted.chat("ponder", max_tokens=200).json()
    assert body["choices"][0]["message"] == {
        "role": "assistant",
        "content": "It is warm.",
        "reasoning_content": "Paris is in France.",
    }
    usage = body["usage"]
    assert 0 < usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"]


def test_mistrals_reasoning_mode_has_chunks(scripted: Node) -> None:
    message = scripted.chat("ponder", max_tokens=200, prompt_mode="reasoning").json()["choices"][0]["message"]
    assert "reasoning_content" not in message
    assert message["content"] == [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Paris is in France."}]},
        {"type": "text", "text": "It is warm."},
    ]


def test_a_call_without_text_has_null_content(scripted: Node) -> None:
    message = scripted.chat("think", tools=TOOLS, max_tokens=200).json()["choices"][0]["message"]
    assert message["content"] is None
    assert message["reasoning_content"] == "Paris is in France."
    assert len(message["tool_calls"]) == 2


def test_the_second_turn_takes_the_results_with_foreign_ids(scripted: Node) -> None:
    call = {"id": "call_of_another_api_1", "type": "function", "function": {"name": "weather", "arguments": PARIS}}
    messages = [
        {"role": "user", "content": "Paris"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_of_another_api_1", "content": "21 degrees"},
    ]
    body = scripted.http.post(
        "/v1/chat/completions", json={"messages": messages, "tools": TOOLS, "max_tokens": 50}
    ).json()
    assert body["choices"][0]["message"]["content"] == "It is warm."


def test_no_marker_reaches_a_client_that_gave_no_tools(scripted: Node) -> None:
    message = scripted.chat("Paris", max_tokens=200).json()["choices"][0]["message"]
    assert "tool_calls" not in message
    assert "Let me look." in message["content"]
    assert not any(marker in message["content"] for marker in ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "sometimes", "tools": TOOLS}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "snow"}}, "tools": TOOLS}, "tool_choice"),
        ({"tool_choice": {"type": "function"}, "tools": TOOLS}, "tool_choice.function"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [*TOOLS, TOOLS[0]]}, "tools[2].function.name"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"guided_regex": "a", "guided_json": {}}, "guided_regex"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
    ],
)
def test_what_is_wrong_is_named(scripted: Node, fields: dict[str, Any], param: str) -> None:
    response = scripted.chat("Paris", **fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_the_prefix_stands_before_the_answer(scripted: Node) -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "21 degrees: ", "prefix": True}]
    fields = {"messages": messages, "max_tokens": 50}
    whole = scripted.http.post("/v1/chat/completions", json=fields).json()["choices"][0]["message"]["content"]
    assert whole == "21 degrees: It is warm."
    with scripted.streaming("/v1/chat/completions", **fields) as payloads:
        deltas = [p["choices"][0]["delta"].get("content", "") for p in payloads if p != "[DONE]"]
    assert "".join(deltas) == whole
    assert deltas[1] == "21 degrees: "  # on its own, as Mistral's API sends it
    messages[1].pop("prefix")
    quiet = scripted.http.post("/v1/chat/completions", json={**fields, "continue_final_message": True}).json()
    assert quiet["choices"][0]["message"]["content"] == "It is warm."


def test_safe_prompt_comes_first(scripted: Node) -> None:
    plain = scripted.chat("ponder", max_tokens=9).json()["usage"]["prompt_tokens"]
    careful = scripted.chat("ponder", max_tokens=9, safe_prompt=True).json()["usage"]["prompt_tokens"]
    assert careful > plain + 20
