"""Formats and forced calls through `ostro serve` with a real model: valid whatever it is sampled from; hostile ones are
refused while others are answered."""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest
from nodes import Node
from real_nodes import served

LIMIT_S = 2.0
TOOL = {
    "type": "function",
    "function": {
        "name": "forecast",
        "parameters": {
            "type": "object",
            "properties": {"unit": {"enum": ["celsius", "kelvin"]}, "days": {"type": "integer", "maximum": 9}},
            "required": ["unit", "days"],
            "additionalProperties": False,
        },
    },
}
OTHER = {"type": "function", "function": {"name": "other", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["card", "loan"]},
        "code": {"type": "string", "pattern": r"^[A-Z]{2}\d{3}$"},
        "parts": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 20}, "maxItems": 3},
    },
    "required": ["kind", "code", "parts"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def real() -> Iterator[Node]:
    with served("ostro-nano", "--max-num-seqs", "16") as node:
        node.wait_ready()
        yield node


@pytest.mark.parametrize("choice", ["required", "any", {"type": "function", "function": {"name": "forecast"}}])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_forced_call_begins_at_once_and_is_valid(real: Node, choice: Any, streamed: bool) -> None:
    """From a model that was never taught to call or to think."""
    for seed in range(4):
        fields: dict[str, Any] = {"tools": [TOOL], "tool_choice": choice, "max_tokens": 120, "seed": seed}
        fields |= {"parallel_tool_calls": False, "temperature": 1.5}
        if streamed:
            messages = [{"role": "user", "content": "Will it rain?"}]
            with real.streaming("/v1/chat/completions", messages=messages, **fields) as payloads:
                deltas = [p["choices"][0] for p in payloads if p != "[DONE]" and p["choices"]]
            pieces = [call for d in deltas for call in d["delta"].get("tool_calls", [])]
            name = "".join(piece["function"]["name"] for piece in pieces)
            arguments = "".join(piece["function"]["arguments"] for piece in pieces)
            reason = deltas[-1]["finish_reason"]
            assert {piece["index"] for piece in pieces} == {0}
            assert not any(d["delta"].get("content") or d["delta"].get("reasoning_content") for d in deltas)
        else:
            answer = real.chat("Will it rain?", **fields).json()["choices"][0]
            assert "reasoning_content" not in answer["message"]
            (call,) = answer["message"]["tool_calls"]
            name, arguments, reason = call["function"]["name"], call["function"]["arguments"], answer["finish_reason"]
        assert (name, reason) == ("forecast", "tool_calls")
        jsonschema.validate(json.loads(arguments), TOOL["function"]["parameters"])  # type: ignore[index]  # untyped JSON


def test_of_several_tools_the_named_one_is_called(real: Node) -> None:
    for name, tool in (("forecast", TOOL), ("other", OTHER)):
        choice = {"type": "function", "function": {"name": name}}
        answer = real.chat("hello", tools=[TOOL, OTHER], tool_choice=choice, max_tokens=120, temperature=1.2).json()
        for call in answer["choices"][0]["message"]["tool_calls"]:
            assert call["function"]["name"] == tool["function"]["name"]  # type: ignore[index]  # untyped JSON


def test_no_call_where_none_may_be(real: Node) -> None:
    answer = real.chat("Will it rain?", tools=[TOOL], tool_choice="none", max_tokens=30).json()["choices"][0]
    assert "tool_calls" not in answer["message"]


def formats() -> list[tuple[dict[str, Any], Any]]:
    """Fields of a request, and what checks its answer's text."""
    wrapped = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    word = re.compile(r"(yes|no)-\d{2}")
    return [
        ({"response_format": wrapped}, lambda text: jsonschema.validate(json.loads(text), SCHEMA)),
        ({"guided_json": SCHEMA}, lambda text: jsonschema.validate(json.loads(text), SCHEMA)),
        ({"response_format": {"type": "regex", "regex": word.pattern}}, lambda text: _true(word.fullmatch(text))),
        ({"guided_regex": word.pattern}, lambda text: _true(word.fullmatch(text))),
        ({"guided_choice": ["red", "green"]}, lambda text: _true(text in ("red", "green"))),
        (
            {"response_format": {"type": "grammar", "grammar": 'start: "a"{2,4} WORD\nWORD: /[xyz]{2}/'}},
            lambda text: _true(re.fullmatch("a{2,4}[xyz]{2}", text)),
        ),
    ]


def _true(value: object) -> None:
    assert value


@pytest.mark.parametrize("index", range(len(formats())))
def test_answers_have_their_format(real: Node, index: int) -> None:
    fields, check = formats()[index]
    for seed in range(4):
        answer = real.chat("Which?", max_tokens=200, temperature=1.3, seed=seed, **fields)
        assert answer.status_code == 200, answer.text
        choice = answer.json()["choices"][0]
        assert choice["finish_reason"] == "stop"
        check(choice["message"]["content"])


def test_json_objects_and_formats_beside_calls(real: Node) -> None:
    answer = real.chat("Which?", max_tokens=250, response_format={"type": "json_object"}, temperature=0).json()
    text = answer["choices"][0]["message"]["content"]
    if answer["choices"][0]["finish_reason"] == "stop":
        assert isinstance(json.loads(text), dict)
    else:
        assert text.lstrip().startswith("{")
    wrapped = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    for seed in range(3):
        both = real.chat("Which?", max_tokens=250, response_format=wrapped, tools=[TOOL], seed=seed).json()
        message = both["choices"][0]["message"]
        if message["content"]:
            jsonschema.validate(json.loads(message["content"]), SCHEMA)
        for call in message.get("tool_calls", []):
            jsonschema.validate(json.loads(call["function"]["arguments"]), TOOL["function"]["parameters"])  # type: ignore[index]  # untyped JSON


def test_many_formats_at_once(real: Node) -> None:
    asked = [formats()[index % len(formats())] for index in range(48)]
    with ThreadPoolExecutor(16) as pool:
        answers = pool.map(lambda one: real.chat("Which?", max_tokens=200, temperature=1.3, **one[0]), asked)
        for (_, check), answer in zip(asked, answers, strict=True):
            check(answer.json()["choices"][0]["message"]["content"])


def hostile() -> dict[str, dict[str, Any]]:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(400):
        deep = {"type": "object", "properties": {"a": deep}, "required": ["a"]}
    doubling: dict[str, Any] = {
        f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]} for i in range(40)
    }
    doubling["d40"] = {"type": "object", "properties": {"a": {"type": "string"}}}

    def wrapped(schema: Any) -> dict[str, Any]:
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}

    pattern = "^((((a{1,99}){1,99}){1,99}){1,99}){1,99}$"
    parameters = {"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}, "required": ["a"]}
    bad_tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    return {
        "exponential regex": {"guided_regex": "(((((a{1,99}){1,99}){1,99}){1,99}){1,99}){1,99}"},
        "regex in a schema": wrapped({"type": "string", "pattern": pattern}),
        "deeply nested": wrapped(deep),
        "ten megabytes": wrapped({"enum": ["x" * 10_000_000]}),
        "ten megabytes of values": wrapped({"enum": [[]] * 2_500_000}),
        "doubling": wrapped({"$ref": "#/$defs/d0", "$defs": doubling}),
        "a tool's arguments": {"tools": [bad_tool], "tool_choice": "required"},
        "no such reference": wrapped({"$ref": "#/$defs/nowhere"}),
        "look-around": {"guided_regex": "(?=a)b"},
        "a broken grammar": {"guided_grammar": "start: ((("},
    }


# These are much work only where an answer goes that way; then it is the answer that is refused.
HARD = ("exponential regex", "regex in a schema", "a tool's arguments", "doubling")
PARAMS = {
    "exponential regex": "guided_regex",
    "regex in a schema": "response_format",
    "ten megabytes": "response_format",
    "ten megabytes of values": None,
    "a tool's arguments": "tools",
    "no such reference": "response_format",
    "look-around": "guided_regex",
    "a broken grammar": "guided_grammar",
}


@pytest.mark.parametrize("name", hostile())
def test_hostile_formats_are_refused_while_others_go_on(real: Node, name: str) -> None:
    body = json.dumps(
        {"messages": [{"role": "user", "content": "x"}], "max_tokens": 20, **hostile()[name]}, separators=(",", ":")
    ).encode()
    arrivals: list[float] = []
    begun, done = threading.Event(), threading.Event()

    def read() -> None:
        with real.streaming("/v1/completions", prompt="ROMEO:", max_tokens=900, ignore_eos=True) as payloads:
            for _ in payloads:
                arrivals.append(time.monotonic())
                begun.set()
                if done.is_set():
                    return

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        assert begun.wait(20)
        started = time.monotonic()
        answer = real.http.post(
            "/v1/chat/completions", content=body, headers={"content-type": "application/json"}, timeout=30
        )
        spent = time.monotonic() - started
        time.sleep(0.2)
        until = time.monotonic()
        done.set()
        reading.result()
    assert spent < LIMIT_S
    during = [at for at in arrivals if started - 0.2 <= at <= until]
    assert len(during) > 1
    assert max(b - a for a, b in itertools.pairwise([*during, until])) < 1.0
    if answer.status_code == 200 and name in HARD:
        message = answer.json()["choices"][0]["message"]
        assert message["content"] or message["tool_calls"]
    else:
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert (error["type"], error["param"]) == ("invalid_request_error", PARAMS.get(name, error["param"]))
        assert len(error["message"]) < 1000
        assert "<state>" not in error["message"]
    assert real.chat("hello").status_code == 200


def test_a_format_does_not_go_on_from_a_prefix(real: Node) -> None:
    """Together they would be no valid document, so both are not taken."""
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": '{"a": ', "prefix": True}]
    body = {"model": "ostro-nano", "messages": messages, "max_tokens": 9}
    for fields in ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "regex", "regex": "a"}}):
        answer = real.http.post("/v1/chat/completions", json={**body, **fields})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"].startswith("response_format")
        assert "prefix" in answer.json()["error"]["message"]
    assert real.http.post("/v1/chat/completions", json=body).status_code == 200
