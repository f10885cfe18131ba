"""`/v1/responses` through HTTP: what it takes, what it answers whole and streamed, and what it keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from batching import ended, lines_of
from nodes import Node, scripted_node, until
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.response_item import ResponseItem
from pydantic import TypeAdapter

TOOL = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": False,
}
CALL = '[TOOL_CALLS]weather[ARGS]{"city": "Paris"}'
SCRIPT: dict[str, Any] = {
    "Hello": "Hello there, and welcome.",
    "ponder": "[THINK]Two and two make four.[/THINK]Four.",
    "Paris": f"[THINK]France.[/THINK]Let me look.{CALL}[TOOL_CALLS]weather[ARGS]{{}}",
    "Rome": CALL,
    "21 degrees": "It is warm.",
    "for ever": {"say": "one two ", "step_s": 0.05, "ends": False},
    "silence": "",
    "broken": '[TOOL_CALLS]weather[ARGS]{"city": ',
}
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@pytest.fixture(scope="module")
def scripted() -> Iterator[Node]:
    with scripted_node(SCRIPT) as node:
        yield node


def ask(node: Node, given: Any, **fields: Any) -> dict[str, Any]:
    response = node.http.post("/v1/responses", json={"input": given, **fields})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    Response.model_validate(answer)
    return answer


def stream(node: Node, given: Any, **fields: Any) -> list[dict[str, Any]]:
    """The events, checked: named as their type says, numbered, and as OpenAI's package describes them."""
    response = node.http.post("/v1/responses", json={"input": given, "stream": True, **fields})
    assert response.status_code == 200, response.text
    blocks = [block.split("\n") for block in response.text.split("\n\n") if block and not block.startswith(":")]
    events = []
    for number, (name, data) in enumerate(blocks):
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        EVENTS.validate_python(event)
        events.append(event)
    return events


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """Types of events; deltas of one kind in a row are one."""
    named = [event["type"].removeprefix("response.") for event in events]
    return [name for place, name in enumerate(named) if not place or name != named[place - 1]]


def text_of(answer: dict[str, Any]) -> str:
    return str(Response.model_validate(answer).output_text)


def refused(node: Node, given: Any, **fields: Any) -> tuple[int, str | None, str]:
    response = node.http.post("/v1/responses", json={"input": given, **fields})
    error = response.json()["error"]
    return response.status_code, error["param"], error["code"]


def anonymous(answer: dict[str, Any]) -> Any:
    """An answer without what differs from one to the next: times, and its random part of ids."""
    text = json.dumps(answer).replace(answer["id"].removeprefix("resp_"), "ID")
    plain = json.loads(text)
    for item in plain["output"]:
        item.pop("call_id", None)
    return {name: value for name, value in plain.items() if name not in ("created_at", "completed_at", "store")}


def test_an_answer_says_what_was_asked_again(scripted: Node) -> None:
    fields = {
        "instructions": "Be brief.",
        "temperature": 0.5,
        "top_p": 0.9,
        "max_output_tokens": 50,
        "metadata": {"team": "a"},
        "tools": [TOOL],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]},
        "parallel_tool_calls": False,
        "reasoning": {"effort": "high", "summary": "auto"},
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "max_tool_calls": 3,
        "truncation": "disabled",
    }
    answer = ask(scripted, "Hello", **fields)
    assert {name: answer[name] for name in fields} == fields
    assert answer["status"] == "completed"
    assert answer["completed_at"] >= answer["created_at"]
    (message,) = answer["output"]
    assert message["content"] == [
        {"type": "output_text", "text": "Hello there, and welcome.", "annotations": [], "logprobs": []}
    ]
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["input_tokens_details"]["cached_tokens"] == usage["output_tokens_details"]["reasoning_tokens"] == 0


def test_what_has_no_effect_is_named(scripted: Node) -> None:
    fields = {"reasoning": {"effort": "high", "summary": "auto"}, "text": {"verbosity": "low"}, "top_q": 1}
    response = scripted.http.post("/v1/responses", json={"input": "Hello", **fields})
    assert response.headers["x-ostro-ignored"] == "reasoning.effort, reasoning.summary, text.verbosity, top_q"


def test_events_come_in_openais_order(scripted: Node) -> None:
    part = ["content_part.added", "output_text.delta", "output_text.done", "content_part.done"]
    thought = ["content_part.added", "reasoning_text.delta", "reasoning_text.done", "content_part.done"]
    call = ["function_call_arguments.delta", "function_call_arguments.done"]
    items = [["output_item.added", *inner, "output_item.done"] for inner in (thought, part, call, call)]
    events = stream(scripted, "Paris", tools=[TOOL])
    assert kinds(events) == ["created", "in_progress", *(name for item in items for name in item), "completed"]
    assert events[0]["response"]["status"] == events[1]["response"]["status"] == "in_progress"
    assert events[0]["response"]["usage"] is None
    assert [event["output_index"] for event in events if event["type"].endswith("item.added")] == [0, 1, 2, 3]


def test_deltas_add_up_to_their_items_and_the_items_to_the_answer(scripted: Node) -> None:
    events = stream(scripted, "Paris", tools=[TOOL])
    answer = events[-1]["response"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == answer["output"]
    joined = [""] * len(done)
    for event in events:
        if "delta" in event:
            joined[event["output_index"]] += event["delta"]
            assert event["item_id"] == done[event["output_index"]]["id"]
    thought, message, *calls = done
    assert joined == [thought["content"][0]["text"], message["content"][0]["text"], *(c["arguments"] for c in calls)]
    assert [json.loads(call["arguments"]) for call in calls] == [{"city": "Paris"}, {}]
    assert len({call["call_id"] for call in calls}) == 2
    assert thought == {
        "type": "reasoning",
        "id": thought["id"],
        "status": "completed",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "France."}],
        "encrypted_content": None,
    }
    assert 0 < answer["usage"]["output_tokens_details"]["reasoning_tokens"] < answer["usage"]["output_tokens"]


@pytest.mark.parametrize("given", ["Hello", "ponder", "Paris", "silence"])
@pytest.mark.parametrize("most", [3, 100])
def test_a_stream_ends_in_the_unstreamed_answer_which_is_the_stored_one(scripted: Node, given: str, most: int) -> None:
    fields: dict[str, Any] = {"tools": [TOOL], "max_output_tokens": most}
    last = stream(scripted, given, **fields)[-1]
    assert last["type"] == f"response.{last['response']['status']}"
    streamed, whole = last["response"], ask(scripted, given, **fields)
    assert anonymous(streamed) == anonymous(whole)
    for answer in (streamed, whole):
        assert scripted.http.get(f"/v1/responses/{answer['id']}").json() == answer


def test_an_answer_that_says_nothing_has_an_empty_message(scripted: Node) -> None:
    events = stream(scripted, "silence")
    assert "response.output_text.done" in [event["type"] for event in events]
    assert text_of(events[-1]["response"]) == ""
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["message"]


def test_an_answer_that_is_cut_is_incomplete(scripted: Node) -> None:
    answer = ask(scripted, "Hello", max_output_tokens=2)
    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    assert answer["completed_at"] is None
    assert [item["status"] for item in answer["output"]] == ["incomplete"]


def test_a_cut_call_is_left_out_when_the_conversation_goes_on(scripted: Node) -> None:
    cut = ask(scripted, "Rome", tools=[TOOL], max_output_tokens=14)
    assert [(item["type"], item["status"]) for item in cut["output"]] == [("function_call", "incomplete")]
    assert text_of(ask(scripted, "Hello", previous_response_id=cut["id"])) == SCRIPT["Hello"]
    given = [{"role": "user", "content": "Rome"}, *cut["output"], {"role": "user", "content": "Hello"}]
    assert text_of(ask(scripted, given)) == SCRIPT["Hello"]


def test_log_probabilities_are_those_of_the_texts_tokens(scripted: Node) -> None:
    fields: dict[str, Any] = {"include": ["message.output_text.logprobs"], "top_logprobs": 1, "tools": [TOOL]}
    for given in ("Hello", "ponder", "Paris"):
        events = stream(scripted, given, **fields)
        message = next(item for item in events[-1]["response"]["output"] if item["type"] == "message")
        (part,) = message["content"]
        assert "".join(entry["token"] for entry in part["logprobs"]) == part["text"]
        assert all(len(entry["top_logprobs"]) == 1 and entry["bytes"] for entry in part["logprobs"])
        deltas = [event for event in events if event["type"] == "response.output_text.delta"]
        assert [entry for event in deltas for entry in event["logprobs"]] == part["logprobs"]
        whole = ask(scripted, given, **fields)["output"]
        assert next(item for item in whole if item["type"] == "message")["content"] == [part]
    assert ask(scripted, "Hello", top_logprobs=1)["output"][0]["content"][0]["logprobs"] == []


def test_a_conversation_goes_on_from_a_stored_answer(scripted: Node) -> None:
    first = ask(scripted, "Hello", instructions="Mind the silence.")
    alone = ask(scripted, "And then?")
    second = ask(scripted, "And then?", previous_response_id=first["id"])
    assert text_of(alone) == "There is no line for this in the script."
    assert text_of(second) == SCRIPT["Hello"]  # the line of what was asked first
    # The same as the whole conversation sent at once; the instructions are not taken over.
    sent = [
        {"role": "user", "content": "Hello"},
        *first["output"],
        {"role": "user", "content": [{"type": "input_text", "text": "And then?"}]},
    ]
    assert ask(scripted, sent)["usage"]["input_tokens"] == second["usage"]["input_tokens"]
    third = ask(scripted, "Once more.", previous_response_id=second["id"], instructions="Mind the silence.")
    assert text_of(third) == SCRIPT["Hello"]
    assert third["instructions"] == "Mind the silence."
    assert third["usage"]["input_tokens"] > second["usage"]["input_tokens"] + 15


def test_tools_over_two_turns_in_every_way_to_send_them(scripted: Node) -> None:
    first = ask(scripted, "Rome", tools=[TOOL])
    (call,) = first["output"]
    result: dict[str, Any] = {"type": "function_call_output", "call_id": call["call_id"], "output": "21 degrees"}
    asked = {"type": "message", "role": "user", "content": "Rome"}
    ways: list[tuple[list[Any], dict[str, Any]]] = [
        ([result], {"previous_response_id": first["id"]}),
        ([asked, call, result], {}),
        ([asked, {"type": "item_reference", "id": call["id"]}, result], {}),
        ([{**result, "output": [{"type": "input_text", "text": "21 degrees"}]}], {"previous_response_id": first["id"]}),
    ]
    answers = [ask(scripted, given, tools=[TOOL], **fields) for given, fields in ways]
    assert [text_of(answer) for answer in answers] == ["It is warm."] * 4
    assert len({answer["usage"]["input_tokens"] for answer in answers}) == 1


def test_parallel_calls_with_thoughts_and_text_are_one_message(scripted: Node) -> None:
    first = ask(scripted, "Paris", tools=[TOOL])
    calls = [item for item in first["output"] if item["type"] == "function_call"]
    results = [
        {"type": "function_call_output", "call_id": call["call_id"], "output": text}
        for call, text in zip(reversed(calls), ("18 degrees", "21 degrees"), strict=True)
    ]
    given = [{"role": "user", "content": "Paris"}, *first["output"], *results]
    assert text_of(ask(scripted, given, tools=[TOOL], store=False)) in ("It is warm.", SCRIPT["Paris"])
    going_on = ask(scripted, results, tools=[TOOL], previous_response_id=first["id"])
    assert going_on["usage"]["input_tokens"] == ask(scripted, given, tools=[TOOL])["usage"]["input_tokens"]


ITEM = {"role": "user", "content": "Hello"}
DEEP: dict[str, Any] = {"type": "object"}
for _ in range(60):
    DEEP = {"type": "object", "properties": {"a": DEEP}}


@pytest.mark.parametrize(
    ("given", "fields", "param", "code"),
    [
        (5, {}, "input", "invalid_value"),
        ([], {}, "input", "invalid_value"),
        ([{"content": "x"}], {}, "input[0].role", "missing_required_parameter"),
        ([{"role": "robot", "content": "x"}], {}, "input[0].role", "invalid_value"),
        ([{"role": "user"}], {}, "input[0].content", "missing_required_parameter"),
        ([ITEM, {"type": "web_search_call"}], {}, "input[1].type", "unsupported_content"),
        (
            [{"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}],
            {},
            "input[0].content[0].type",
            "unsupported_content",
        ),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": "x"}, {"type": "input_file"}]}],
            {},
            "input[0].content[1].type",
            "unsupported_content",
        ),
        ([{"role": "user", "content": [{"type": "input_text"}]}], {}, "input[0].content[0].text", None),
        ([ITEM, {"type": "function_call", "call_id": "c", "name": "f"}], {}, "input[1].arguments", None),
        ([ITEM, {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}], {}, "input", None),
        ([ITEM, {"type": "function_call_output", "call_id": "c", "output": ""}], {}, "input[1].call_id", None),
        ([ITEM, {"type": "item_reference", "id": "msg_x"}], {}, "input[1].id", "item_not_found"),
        ([ITEM, {"role": "assistant", "content": "x"}], {}, "input", None),
        (
            [
                ITEM,
                {"type": "function_call", "call_id": "c", "name": " ", "arguments": "no"},
                {"type": "function_call_output", "call_id": "c", "output": ""},
            ],
            {},
            "input[1].name",
            None,
        ),
        ("x", {"previous_response_id": "resp_none"}, "previous_response_id", "previous_response_not_found"),
        ("x", {"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_tool"),
        ("x", {"tools": [TOOL, {"type": "function"}]}, "tools[1].name", "missing_required_parameter"),
        ("x", {"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name", None),
        ("x", {"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice", None),
        ("x", {"tools": [TOOL], "tool_choice": {"type": "function", "name": "snow"}}, "tool_choice", None),
        ("x", {"tools": [TOOL], "tool_choice": {"type": "mcp"}}, "tool_choice.type", "unsupported_tool"),
        ("x", {"tool_choice": "required"}, "tool_choice", None),
        ("x", {"text": {"format": {"type": "xml"}}}, "text.format.type", None),
        ("x", {"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema", None),
        ("x", {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": 5}}}}, "text.format", None),
        ("x", {"text": {"format": {"type": "json_schema", "name": "n", "schema": DEEP}}}, "text.format", None),
        ("x", {"tools": [{**TOOL, "parameters": DEEP, "strict": True}]}, "tools[0].parameters", None),
        ("x", {"background": True}, "background", "unsupported_parameter"),
        ("x", {"truncation": "auto"}, "truncation", "unsupported_parameter"),
        ("x", {"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ("x", {"prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
        ("x", {"max_tokens": 5}, "max_tokens", "unsupported_parameter"),
        ("x", {"max_output_tokens": 0}, "max_output_tokens", None),
        ("x", {"max_output_tokens": 100_000}, "input", "context_length_exceeded"),
        ("x", {"top_logprobs": 21}, "top_logprobs", None),
        ("x", {"include": ["everything"]}, "include[0]", None),
        ("x", {"metadata": {"a": 1}}, "metadata.a", None),
        ("x", {"metadata": {"a" * 65: ""}}, "metadata", None),
        ("word " * 5000, {}, "input", "context_length_exceeded"),
    ],
)
def test_what_is_wrong_is_named(
    scripted: Node, given: Any, fields: dict[str, Any], param: str, code: str | None
) -> None:
    for streamed in (False, True):  # before the first token, a stream's errors are statuses too
        status, named, why = refused(scripted, given, stream=streamed, **fields)
        assert (status, named) == (400, param)
        assert code in (None, why)


def test_errors_speak_of_this_endpoints_fields(scripted: Node) -> None:
    response = scripted.http.post("/v1/responses", json={"input": "x", "max_output_tokens": 0})
    assert "max_output_tokens must be" in response.json()["error"]["message"]
    said = {"role": "assistant", "content": "I will look."}
    right = {"type": "function_call", "call_id": "b", "name": "f", "arguments": "{}"}
    broken = {"type": "function_call", "call_id": "c", "name": " ", "arguments": "{}"}
    outputs = [{"type": "function_call_output", "call_id": name, "output": ""} for name in "bc"]
    response = scripted.http.post("/v1/responses", json={"input": [ITEM, said, right, broken, *outputs]})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "input[3].name"
    message = response.json()["error"]["message"]
    assert message.startswith("input[3].name must be")
    assert response.json()["message"] == message


def test_all_is_what_minus_one_means(scripted: Node) -> None:
    ask(scripted, "Hello", top_k=-1)


def test_a_call_that_is_no_json_is_gone_on_from(scripted: Node) -> None:
    first = ask(scripted, "broken", tools=[TOOL])
    call = first["output"][-1]
    assert call["arguments"] == '{"city": '
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "error: that is no JSON"}
    ask(scripted, [output], tools=[TOOL], previous_response_id=first["id"])
    user = {"role": "user", "content": "broken"}
    ask(scripted, [user, *first["output"], output], tools=[TOOL], store=False)


def test_conversations_that_are_too_large_are_not_read_again(scripted: Node) -> None:
    cut = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "x" * 9_000_000, "status": "incomplete"}
    first = ask(scripted, [ITEM, cut])
    second = ask(scripted, [ITEM, cut], previous_response_id=first["id"])
    status, param, code = refused(scripted, "Hello", previous_response_id=second["id"])
    assert (status, param, code) == (400, "previous_response_id", "context_length_exceeded")
    assert scripted.http.get(f"/v1/responses/{second['id']}/input_items").status_code == 400
    ask(scripted, "Hello", previous_response_id=first["id"])
    items = [{"type": "item_reference", "id": response["output"][0]["id"]} for response in (first, second)]
    assert refused(scripted, items)[0] == 400
    for response in (first, second):
        assert scripted.http.delete(f"/v1/responses/{response['id']}").status_code == 200


def test_stored_answers_are_deleted_once(scripted: Node) -> None:
    first = ask(scripted, "Hello")
    second = ask(scripted, "Hello", previous_response_id=first["id"])
    path = f"/v1/responses/{first['id']}"
    assert scripted.http.delete(path).json() == {"id": first["id"], "object": "response", "deleted": True}
    for gone in (
        scripted.http.get(path),
        scripted.http.delete(path),
        scripted.http.get(f"{path}/input_items"),
        scripted.http.post(f"{path}/cancel"),
    ):
        assert gone.status_code == 404
        assert gone.json()["error"]["param"] == "response_id"
    # What went on from it is there, but has lost its beginning, and says so.
    assert scripted.http.get(f"/v1/responses/{second['id']}").json() == second
    wanted = (400, "previous_response_id", "previous_response_not_found")
    assert refused(scripted, "x", previous_response_id=second["id"]) == wanted


def test_what_is_not_to_be_stored_is_not(scripted: Node) -> None:
    for answer in (ask(scripted, "Hello", store=False), stream(scripted, "Hello", store=False)[-1]["response"]):
        assert answer["store"] is False
        assert scripted.http.get(f"/v1/responses/{answer['id']}").status_code == 404


def test_the_input_is_listed_with_what_it_goes_on_from(scripted: Node) -> None:
    first = ask(scripted, [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Hello"}])
    second = ask(scripted, "And then?", previous_response_id=first["id"])
    path = f"/v1/responses/{second['id']}/input_items"
    listed = scripted.http.get(path, params={"order": "asc"}).json()
    for item in listed["data"]:
        TypeAdapter(ResponseItem).validate_python(item)
    texts = [item["content"][0]["text"] for item in listed["data"]]
    assert texts == ["Be kind.", "Hello", SCRIPT["Hello"], "And then?"]
    ids = [item["id"] for item in listed["data"]]
    assert len(set(ids)) == 4
    assert (listed["first_id"], listed["last_id"], listed["has_more"]) == (ids[0], ids[-1], False)
    pages: list[str] = []
    after: dict[str, Any] = {}
    while len(pages) < 9:
        page = scripted.http.get(path, params={"limit": 3, **after}).json()
        pages += [item["id"] for item in page["data"]]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert pages == ids[::-1]  # the newest first, where nothing else is asked for
    for query in ({"limit": 0}, {"limit": 101}, {"order": "up"}, {"after": "msg_x"}):
        assert scripted.http.get(path, params=query).status_code == 400


def test_what_is_finished_cannot_be_cancelled_or_streamed(scripted: Node) -> None:
    path = f"/v1/responses/{ask(scripted, 'Hello')['id']}"
    cancelled = scripted.http.post(f"{path}/cancel")
    assert cancelled.status_code == 400
    assert "Cannot cancel a synchronous response" in cancelled.json()["error"]["message"]
    assert scripted.http.get(path, params={"stream": "true"}).json()["error"]["param"] == "stream"


def test_answers_belong_to_the_key_that_asked() -> None:
    with scripted_node(SCRIPT, api_keys=["mine", "yours"]) as node:
        mine, yours = ({"authorization": f"Bearer {key}"} for key in ("mine", "yours"))

        def post(key: dict[str, str], **body: Any) -> Any:
            return node.http.post("/v1/responses", json=body, headers=key)

        answer = post(mine, input="Hello").json()
        path = f"/v1/responses/{answer['id']}"
        for method, where in (("GET", path), ("GET", f"{path}/input_items"), ("POST", f"{path}/cancel")):
            assert node.http.request(method, where, headers=yours).status_code == 404
        assert node.http.delete(path, headers=yours).status_code == 404
        reference = [{"type": "item_reference", "id": answer["output"][0]["id"]}, ITEM]
        for body in ({"input": "x", "previous_response_id": answer["id"]}, {"input": reference}):
            assert post(yours, **body).status_code == 400
            assert post(mine, **body).status_code == 200
        assert node.http.get(path, headers={"x-api-key": "mine"}).json() == answer


def test_a_stream_whose_engine_dies_says_so_and_is_not_stored() -> None:
    with scripted_node(SCRIPT) as node:
        (engine,) = psutil.Process(node.process.pid).children()
        with node.streaming("/v1/responses", input="for ever") as payloads:
            events = [next(payloads) for _ in range(6)]
            engine.kill()
            events += payloads
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        error, failed = events[-2:]
        assert error["type"] == "error"
        assert error["code"] == error["error"]["code"] == "engine_dead"
        assert failed["type"] == "response.failed"
        assert failed["response"]["status"] == "failed"
        assert failed["response"]["error"] == {"code": "server_error", "message": error["message"]}
        for event in (error, failed):
            EVENTS.validate_python(event)
        assert node.http.get(f"/v1/responses/{failed['response']['id']}").status_code == 404


def test_a_client_that_leaves_frees_its_request_and_nothing_is_stored(scripted: Node) -> None:
    with scripted.streaming("/v1/responses", input="for ever") as payloads:
        response_id = next(payloads)["response"]["id"]
        next(payloads)
    until(lambda: scripted.metric("vllm:num_requests_running") == 0, 10)
    assert scripted.http.get(f"/v1/responses/{response_id}").status_code == 404


def test_a_batch_keeps_its_answers_in_its_file_alone(scripted: Node) -> None:
    requests = [{"custom_id": "a", "body": {"input": "Hello"}}]
    job = scripted.http.post("/v1/batch/jobs", json={"endpoint": "/v1/responses", "requests": requests}).json()
    (line,) = lines_of(scripted, ended(scripted, job)["output_file"])
    answer = line["response"]["body"]
    assert text_of(answer) == SCRIPT["Hello"]
    assert answer["store"] is False
    assert scripted.http.get(f"/v1/responses/{answer['id']}").status_code == 404
