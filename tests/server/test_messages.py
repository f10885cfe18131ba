"""`/v1/messages` through HTTP: blocks whole and streamed, tools and thoughts over turns, errors in their own shape."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx2
import msgspec
import pytest
from nodes import Node, running_node, scripted_node, until

from ostro.web.message_answer import AnyMessageEvent, Message, TokenCount
from ostro.web.message_errors import MessageError

PARIS = '{"city": "Paris"}'
CALLS = f"[TOOL_CALLS]weather[ARGS]{PARIS}[TOOL_CALLS]now[ARGS]{{}}"
SCRIPT: dict[str, Any] = {
    "hello": "Hello there, and welcome.",
    "Paris": f"Let me look.{CALLS}",
    "think": f"[THINK]Paris is in France.[/THINK]{CALLS}",
    "ponder": "[THINK]Paris is in France.[/THINK]It is warm.",
    "broken": "[TOOL_CALLS]weather[ARGS]Paris please",
    "endless": '[TOOL_CALLS]weather[ARGS]{"city": 1e999}',
    "silent": "",
    "slow": {"say": "one two ", "step_s": 0.5, "ends": False},
    "21 degrees": "It is warm.",
    "Error: no such city": "I cannot tell.",
}
TOOLS = [
    {
        "name": "weather",
        "description": "The weather of a city.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "cache_control": {"type": "ephemeral"},
    },
    {"name": "now", "input_schema": {"type": "object", "properties": {}}, "type": "custom"},
]
OF_CALL = {"type": "tool_use", "id": "toolu_01A09q90qw90lq917835lq9", "name": "weather", "input": {"city": "Paris"}}


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with scripted_node(SCRIPT, heartbeat_s=0.1) as running:
        yield running


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def post(node: Node, content: Any, *, path: str = "/v1/messages", **fields: Any) -> httpx2.Response:
    body = {"model": "scripted", "max_tokens": 200, "messages": [user(content)], **fields}
    return node.http.post(path, json=body)


def ask(node: Node, content: Any, **fields: Any) -> dict[str, Any]:
    response = post(node, content, **fields)
    assert response.status_code == 200, response.text
    msgspec.json.decode(response.content, type=Message, strict=True)
    answer = response.json()
    assert isinstance(answer, dict)
    return answer


def events(node: Node, content: Any, **fields: Any) -> list[dict[str, Any]]:
    """Data of the events, each under its own name and as described."""
    body = {"model": "scripted", "max_tokens": 200, "messages": [user(content)], "stream": True, **fields}
    with node.http.stream("POST", "/v1/messages", json=body) as response:
        assert response.status_code == 200, response.read()
        text = response.read().decode()
    assert "[DONE]" not in text
    found = []
    for frame in text.strip().split("\n\n"):
        name, data = frame.split("\n")
        msgspec.json.decode(data.removeprefix("data: "), type=AnyMessageEvent, strict=True)
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def joined(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client makes of events."""
    message: dict[str, Any] = {}
    open_block: int | None = None
    for event in found:
        match event["type"]:
            case "message_start":
                assert not message
                message = event["message"]
            case "content_block_start":
                assert open_block is None
                assert event["index"] == len(message["content"])
                open_block = event["index"]
                message["content"].append(event["content_block"])
            case "content_block_delta":
                assert event["index"] == open_block
                block, delta = message["content"][open_block], event["delta"]
                match delta["type"]:
                    case "text_delta":
                        block["text"] += delta["text"]
                    case "thinking_delta":
                        block["thinking"] += delta["thinking"]
                    case "signature_delta":
                        block["signature"] = delta["signature"]
                    case "input_json_delta":
                        block["json"] = block.get("json", "") + delta["partial_json"]
            case "content_block_stop":
                assert event["index"] == open_block
                block = message["content"][open_block]
                if "json" in block:
                    block["input"] = json.loads(block.pop("json"))
                open_block = None
            case "message_delta":
                message |= event["delta"]
                message["usage"] |= event["usage"]
    assert open_block is None
    return message


def refused(response: httpx2.Response, status: int, kind: str) -> str:
    """The message of an error, which has Anthropic's shape."""
    assert response.status_code == status, response.text
    error = msgspec.json.decode(response.content, type=MessageError, strict=True)
    assert error.error.type == kind
    assert response.json().keys() == {"type", "error", "request_id"}
    assert response.headers["request-id"] == response.headers["x-request-id"] == error.request_id
    assert int(response.headers["content-length"]) == len(response.content)
    return error.error.message


def test_a_text(node: Node) -> None:
    response = post(node, "hello", metadata={"user_id": "u"}, service_tier="auto")
    answer = response.json()
    assert answer.pop("id").startswith("msg_")
    assert answer.pop("usage").keys() > {"input_tokens", "output_tokens", "cache_read_input_tokens"}
    assert answer == {
        "type": "message",
        "role": "assistant",
        "model": "scripted",
        "content": [{"type": "text", "text": "Hello there, and welcome."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
    }
    assert response.headers["request-id"] == response.headers["x-request-id"]
    assert "x-ostro-ignored" not in response.headers


def test_events_come_in_anthropics_order(node: Node) -> None:
    found = [event for event in events(node, "hello") if event["type"] != "ping"]
    kinds = [event["type"] for event in found]
    deltas = len(kinds) - 5
    assert deltas > 1
    expected = ["message_start", "content_block_start", *["content_block_delta"] * deltas, "content_block_stop"]
    assert kinds == [*expected, "message_delta", "message_stop"]
    start = found[0]["message"]
    assert (start["content"], start["stop_reason"], start["stop_sequence"]) == ([], None, None)
    assert found[-1] == {"type": "message_stop"}
    thoughts = [event.get("delta", {}).get("type") for event in events(node, "ponder") if event.get("index") == 0]
    assert thoughts[0] is thoughts[-1] is None
    assert thoughts[-2] == "signature_delta"
    assert set(thoughts[1:-2]) == {"thinking_delta"}


@pytest.mark.parametrize("text", ["hello", "Paris", "think", "ponder", "silent"])
def test_joined_events_are_the_whole_answer(node: Node, text: str) -> None:
    whole = ask(node, text, tools=TOOLS)
    streamed = joined(events(node, text, tools=TOOLS))
    for answer in (whole, streamed):
        ids = [answer.pop("id"), *(block.pop("id") for block in answer["content"] if block["type"] == "tool_use")]
        assert len(set(ids)) == len(ids)
    assert streamed == whole


def test_blocks_stand_in_the_models_order(node: Node) -> None:
    answer = ask(node, "think", tools=TOOLS)
    thought, *calls = answer["content"]
    assert thought == {"type": "thinking", "thinking": "Paris is in France.", "signature": ""}
    assert [(call["type"], call["name"], call["input"]) for call in calls] == [
        ("tool_use", "weather", {"city": "Paris"}),
        ("tool_use", "now", {}),
    ]
    assert answer["stop_reason"] == "tool_use"
    assert answer["usage"]["output_tokens_details"]["thinking_tokens"] > 0
    assert [block["type"] for block in ask(node, "Paris", tools=TOOLS)["content"]] == ["text", "tool_use", "tool_use"]


def test_thoughts_can_be_left_out(node: Node) -> None:
    thinking = {"type": "adaptive", "display": "omitted"}
    for answer in (ask(node, "ponder", thinking=thinking), joined(events(node, "ponder", thinking=thinking))):
        assert answer["content"] == [
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "text", "text": "It is warm."},
        ]


@pytest.mark.parametrize("streamed", [False, True])
def test_the_stop_sequence_is_named(node: Node, streamed: bool) -> None:
    fields: dict[str, Any] = {"stop_sequences": ["never", ", and"]}
    answer = joined(events(node, "hello", **fields)) if streamed else ask(node, "hello", **fields)
    assert answer["content"] == [{"type": "text", "text": "Hello there"}]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", ", and")


def test_a_limit_that_cuts_a_call(node: Node) -> None:
    whole = ask(node, "Paris", tools=TOOLS, max_tokens=200)
    for most in range(1, whole["usage"]["output_tokens"]):
        answer = ask(node, "Paris", tools=TOOLS, max_tokens=most)
        assert answer["stop_reason"] == "max_tokens"
        assert answer["usage"]["output_tokens"] == most
        inputs = [block["input"] for block in answer["content"] if block["type"] == "tool_use"]
        assert inputs in ([], [{}], [{"city": "Paris"}], [{"city": "Paris"}, {}])


def test_arguments_that_are_no_json_are_kept(node: Node) -> None:
    (call,) = ask(node, "broken", tools=TOOLS)["content"]
    assert call["input"] == {"INVALID_JSON": "Paris please"}
    (call,) = ask(node, "endless", tools=TOOLS)["content"]
    assert call["input"] == {"INVALID_JSON": '{"city": 1e999}'}


def called(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def turns(result: dict[str, Any], *more: dict[str, Any]) -> list[dict[str, Any]]:
    answer = {"type": "tool_result", "tool_use_id": OF_CALL["id"], **result}
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "x"}
    hidden = {"type": "redacted_thinking", "data": "x"}
    return [user("Paris"), called(thought, hidden, {"type": "text", "text": "Wait."}, OF_CALL), user([answer, *more])]


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"content": "21 degrees"}, "It is warm."),
        ({"content": [{"type": "text", "text": "21 degrees"}]}, "It is warm."),
        ({"content": "no such city", "is_error": True}, "I cannot tell."),
    ],
)
def test_a_result_is_answered(node: Node, result: dict[str, Any], said: str) -> None:
    answer = ask(node, "", messages=turns(result), tools=TOOLS)
    assert answer["content"] == [{"type": "text", "text": said}]


def test_a_conversation_is_the_chat_endpoints(node: Node) -> None:
    """Token for token, thoughts, ids of elsewhere and text behind a result included."""
    call = {
        "id": OF_CALL["id"],
        "type": "function",
        "function": {"name": "weather", "arguments": OF_CALL["input"]},
    }
    parts = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Wait."}]
    chat = [
        {"role": "system", "content": "Be brief."},
        user("Paris"),
        {"role": "assistant", "content": parts, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": OF_CALL["id"], "content": "21 degrees"},
        user("And now?"),
    ]
    functions = [
        {
            "type": "function",
            "function": {
                "name": tool["name"],
                "description": tool.get("description"),
                "parameters": tool["input_schema"],
            },
        }
        for tool in TOOLS
    ]
    there = node.http.post("/tokenize", json={"messages": chat, "tools": functions}).json()["count"]
    messages = turns({"content": "21 degrees"}, {"type": "text", "text": "And now?"})
    for system in ("Be brief.", [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]):
        fields: dict[str, Any] = {"messages": messages, "tools": TOOLS, "system": system}
        counted = post(node, "", path="/v1/messages/count_tokens", **fields)
        assert msgspec.json.decode(counted.content, type=TokenCount).input_tokens == there
        assert ask(node, "", **fields)["usage"]["input_tokens"] == there


def test_an_answer_goes_on_from_the_assistants_words(node: Node) -> None:
    messages = [user("hi"), {"role": "assistant", "content": "They say 21 degrees: "}]
    assert ask(node, "", messages=messages)["content"] == [{"type": "text", "text": "It is warm."}]
    chat = node.http.post("/tokenize", json={"messages": messages, "continue_final_message": True}).json()["count"]
    assert post(node, "", messages=messages, path="/v1/messages/count_tokens").json() == {"input_tokens": chat}


def test_choices_of_tools(node: Node) -> None:
    none = ask(node, "Paris", tools=TOOLS, tool_choice={"type": "none"})
    assert none["stop_reason"] == "end_turn"
    assert all(block["type"] == "text" for block in none["content"])
    for choice in (
        {"type": "any"},
        {"type": "auto", "disable_parallel_tool_use": True},
        {"type": "tool", "name": "now"},
    ):
        assert post(node, "Paris", tools=TOOLS, tool_choice=choice).status_code == 200
    message = refused(
        post(node, "x", tools=TOOLS, tool_choice={"type": "tool", "name": "no"}), 400, "invalid_request_error"
    )
    assert "tool_choice" in message


def test_the_effort_reaches_templates_that_have_a_place_for_it() -> None:
    with scripted_node(SCRIPT, version="v15") as newest:
        prompts = {}
        asked: dict[str, dict[str, Any]] = {
            "default": {},
            "disabled": {"thinking": {"type": "disabled"}},
            "enabled": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
            "asked": {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
        }
        for name, fields in asked.items():
            response = post(newest, "hello", **fields)
            prompts[name] = response.json()["usage"]["input_tokens"]
            ignored = response.headers.get("x-ostro-ignored")
            assert ignored == ("thinking.budget_tokens" if name == "enabled" else None)
        assert prompts["default"] == prompts["disabled"] != prompts["enabled"] == prompts["asked"]


def test_what_is_not_done_is_told(node: Node) -> None:
    fields: dict[str, Any] = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "inference_geo": "eu"}
    told = post(node, "hello", **fields).headers["x-ostro-ignored"]
    assert told == "inference_geo, thinking, thinking.budget_tokens"


IMAGE = {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [user([{"type": "text"}])]}, "messages[0].content[0].text"),
        ({"messages": [user([{"type": "text", "text": 1}])]}, "messages[0].content[0].text"),
        ({"messages": [user([IMAGE])]}, "messages[0].content[0]"),
        ({"messages": [user([{"type": "document"}])]}, "messages[0].content[0]"),
        ({"messages": [user([OF_CALL])]}, "messages[0].content[0]"),
        ({"messages": turns({"content": [IMAGE]})}, "messages[2].content[0].content[0]"),
        ({"messages": turns({"tool_use_id": "no"})}, "messages[2].content[0].tool_use_id"),
        ({"messages": turns({})[:2]}, "messages[1].content[3]"),
        ({"messages": [*turns({})[:2], user("go on")]}, "messages[1].content[3]"),
        ({"messages": [user("x"), called(OF_CALL, OF_CALL)]}, "messages[1].content[1].id"),
        ({"messages": [user("x"), called({**OF_CALL, "id": ""})]}, "messages[1].content[0].id"),
        ({"messages": [user("x"), called({**OF_CALL, "name": " "})]}, "messages[1].content[0].name"),
        (
            {"messages": [user("x"), called({"type": "tool_use", "id": "a", "name": "b"})]},
            "messages[1].content[0].input",
        ),
        ({"messages": [user("x"), called({"type": "thinking"})]}, "messages[1].content[0].thinking"),
        ({"messages": [user([{"type": "tool_result", "content": "x"}])]}, "messages[0].content[0].tool_use_id"),
        ({"system": [{"type": "text"}]}, "system[0].text"),
        ({"system": [IMAGE]}, "system[0]"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
        ({"tools": [{"name": "no_schema"}]}, "tools[0].input_schema"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"name": "a", "input_schema": {"type": "array"}}]}, "tools[0].input_schema"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "no"}}}}, "output_config.format"),
    ],
)
def test_a_bad_request_names_the_field(node: Node, fields: dict[str, Any], named: str) -> None:
    message = refused(post(node, "hello", **fields), 400, "invalid_request_error")
    assert named in message
    assert ".function" not in message


def test_a_prompt_that_is_too_long_says_by_how_much(node: Node) -> None:
    long = refused(post(node, "word " * 9000), 400, "invalid_request_error")
    assert long.startswith("prompt is too long: ")
    assert long.endswith(" tokens > 4096 maximum")
    asked = refused(post(node, "hello", max_tokens=4096), 400, "invalid_request_error")
    assert asked.startswith("input length and `max_tokens` exceed context limit: ")
    assert " + 4096 > 4096" in asked


def test_errors_have_their_shape_wherever_they_come_from() -> None:
    with scripted_node(SCRIPT, api_keys=["right"], max_body_bytes=2000) as node:
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            refused(post(node, "x", path=path), 401, "authentication_error")
            key = {"x-api-key": "right", "x-request-id": "mine"}
            body = {"model": "nope", "max_tokens": 9, "messages": [user("hello")]}
            missing = node.http.post(path, json=body, headers=key)
            assert "nope" in refused(missing, 404, "not_found_error")
            assert missing.headers["request-id"] == "mine"
            bad = node.http.post(path, content=b"{", headers={**key, "content-type": "application/json"})
            refused(bad, 400, "invalid_request_error")
            refused(node.http.post(path, content=b"{}", headers=key), 415, "invalid_request_error")
            refused(node.http.post(path, content=b" " * 3000, headers=key), 413, "request_too_large")
            refused(node.http.get(path, headers=key), 405, "invalid_request_error")
            assert node.http.head(path, headers=key).status_code == 405
            refused(node.http.post(path, json={}, headers={**key, "host": "evil.test"}), 403, "permission_error")
            body["model"] = "scripted"
            assert node.http.post(path, json=body, headers={"authorization": "Bearer right"}).status_code == 200
        refused(node.http.get("/v1/messages/batches", headers=key), 404, "not_found_error")
        assert "object" in node.http.get("/v1/nothing", headers=key).json()  # elsewhere errors are as before


def test_a_full_queue_and_a_passed_deadline(node: Node) -> None:
    refused(post(node, "slow", timeout=0.01), 504, "timeout_error")
    options = {"max_num_seqs": 1, "max_waiting": 1}
    models = {"scripted": {"script": SCRIPT, "options": options}}
    with running_node(program="scripted_node.py", models=models, heartbeat_s=0.1) as small:
        body = {"max_tokens": 100, "messages": [user("slow")], "stream": True}
        with (
            small.http.stream("POST", "/v1/messages", json=body),
            small.http.stream("POST", "/v1/messages", json=body),
        ):
            full = post(small, "hello")
            refused(full, 429, "rate_limit_error")
            assert int(full.headers["retry-after"]) >= 1


def test_a_silent_stream_gets_pings(node: Node) -> None:
    kinds = [event["type"] for event in events(node, "slow", max_tokens=3)]
    assert "ping" in kinds[1:-1]
    assert kinds[0] == "message_start"


def test_an_error_in_mid_stream_is_an_event() -> None:
    with scripted_node(SCRIPT) as node:
        body = {"max_tokens": 1000, "messages": [user("slow")], "stream": True}
        with node.http.stream("POST", "/v1/messages", json=body) as response:
            lines = response.iter_lines()
            assert next(lines) == "event: message_start"
            _kill_engine(node)
            rest = list(lines)
        at = rest.index("event: error")
        error = msgspec.json.decode(rest[at + 1].removeprefix("data: "), type=MessageError, strict=True)
        assert error.error.type == "overloaded_error"
        assert error.request_id == response.headers["request-id"]
        assert "event: message_stop" not in rest
        until(lambda: node.http.get("/health/ready").status_code == 200)


def _kill_engine(node: Node) -> None:
    with open(f"/proc/{node.process.pid}/task/{node.process.pid}/children") as children:
        for child in map(int, children.read().split()):
            with open(f"/proc/{child}/cmdline") as command:
                if "scripted_engine" in command.read():
                    os.kill(child, signal.SIGKILL)


def test_the_description_has_anthropics_errors(node: Node) -> None:
    document = node.http.get("/openapi.json").json()
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        responses = document["paths"][path]["post"]["responses"]
        for status in ("4XX", "5XX"):
            schema = responses[status]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/MessageError"}
    other = document["paths"]["/v1/chat/completions"]["post"]["responses"]["4XX"]
    assert other["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorBody"}
