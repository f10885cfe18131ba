"""What request fields have in common: null is the default wherever a field may be left out, and of a list that is wrong
in every item, one is told at once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from nodes import Node, scripted_node
from pydantic import BaseModel

from ostro.web import (
    batches,
    chat,
    completions,
    embeddings,
    infer,
    message_input,
    messages,
    moderations,
    response_input,
    responses,
    tokens,
    tools,
)
from ostro.web.body import MAX_BODY_BYTES

USER = [{"role": "user", "content": "hello"}]
# Each endpoint with a body that it takes.
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER},
    "/v1/completions": {"prompt": "hello"},
    "/v1/fim/completions": {"prompt": "hello"},
    "/v1/embeddings": {"input": "hello"},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": USER, "max_tokens": 5},
    "/v1/messages/count_tokens": {"messages": USER},
    "/v1/infer": {"inputs": {"text": "hello"}},
    "/v1/moderations": {"input": "hello"},
    "/v1/chat/moderations": {"input": USER},
    "/tokenize": {"prompt": "hello"},
    "/detokenize": {"tokens": [100]},
}
MODULES = (
    batches,
    chat,
    completions,
    embeddings,
    infer,
    message_input,
    messages,
    moderations,
    response_input,
    responses,
    tokens,
    tools,
)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with scripted_node({"hello": "Hi."}) as running:
        yield running


@pytest.mark.parametrize("path", BODIES)
def test_null_is_the_default(node: Node, path: str) -> None:
    document = node.http.get("/openapi.json").json()
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    body = BODIES[path]
    assert node.http.post(path, json=body).status_code == 200
    optional = schema["properties"].keys() - set(schema.get("required", ())) - body.keys()
    assert optional
    for name in sorted(optional):
        answer = node.http.post(path, json={**body, name: None})
        assert answer.status_code == 200, (name, answer.text)
    answer = node.http.post(path, json={**body, **dict.fromkeys(optional)})
    assert answer.status_code == 200, answer.text


def test_null_in_the_options_of_a_stream(node: Node) -> None:
    path = "/v1/chat/completions"
    body = {**BODIES[path], "stream": True, "stream_options": {"include_usage": None}}
    assert "[DONE]" in node.http.post(path, json=body).text


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        ("/v1/completions", "prompt", [0.5] * 2_000_000),
        ("/v1/completions", "prompt", [[0.5] * 10] * 90_000),
        ("/v1/completions", "stop", [1] * 2_000_000),
        ("/v1/completions", "logit_bias", {str(number): "x" for number in range(500_000)}),
        ("/v1/chat/completions", "tools", [1] * 2_000_000),
        ("/v1/embeddings", "input", [0.5] * 2_000_000),
        ("/v1/responses", "input", [{}] * 90_000),
        ("/v1/responses", "metadata", {str(number): 1 for number in range(500_000)}),
        ("/v1/messages", "stop_sequences", [1] * 2_000_000),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_list_of_wrong_items_is_told_by_its_first(node: Node, path: str, field: str, value: Any) -> None:
    body = json.dumps({**BODIES[path], field: value}).encode()
    assert len(body) < MAX_BODY_BYTES
    process = psutil.Process(node.process.pid)
    before = process.memory_info().rss
    most = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, process.memory_info().rss)
            time.sleep(0.005)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        answer = node.http.post(path, content=body, headers={"content-type": "application/json"})
    finally:
        done.set()
        watching.join()
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert field in (error.get("param") or error["message"])
    # The body, what it is as Python's objects, and no error for each of its items: those would be gigabytes.
    assert most - before < 500 * 2**20


def _lists(schema: Any, path: str) -> Iterator[str]:
    """Lists in a core schema that gather their items' errors, and objects that gather their values'."""
    if isinstance(schema, list | tuple):
        for item in schema:
            yield from _lists(item, path)
    if not isinstance(schema, dict):
        return
    gathers = schema.get("type") == "list" and not schema.get("fail_fast")
    if gathers and schema.get("items_schema", {}).get("type") != "any":
        yield path
    if schema.get("type") == "function-before":  # looks at the whole before its parts
        return
    if schema.get("type") == "dict" and schema.get("values_schema", {}).get("type", "any") != "any":
        yield path
    for key, value in schema.items():
        yield from _lists(value, f"{path}.{key}" if isinstance(value, dict) and "type" in value else path)


def test_no_list_gathers_an_error_for_each_item() -> None:
    """So that the next field that somebody adds is bounded too."""
    kinds = {
        kind
        for module in MODULES
        for kind in vars(module).values()
        # A query is as short as a request's first line has to be.
        if isinstance(kind, type) and issubclass(kind, BaseModel) and not kind.__name__.endswith("Page")
    }
    assert len(kinds) > 20
    found = {path for kind in kinds for path in _lists(kind.__pydantic_core_schema__, kind.__name__)}
    assert not found, sorted(found)


def test_strings_that_do_not_end_are_read_in_proportion(node: Node) -> None:
    """Bodies and grammars that made a pattern go over the same text again for each of its quotes: hours."""
    body = b"[" * 100_001 + b'"' + b'\\"' * 2_000_000
    answer = node.http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    for opened in ('"' + '\\"' * 32_000, "start: /" + "\\/" * 32_000):
        answer = node.http.post("/v1/completions", json={"prompt": "hello", "structured_outputs": {"grammar": opened}})
        assert answer.status_code == 400, answer.text


def test_a_number_beyond_all_numbers_is_refused(node: Node) -> None:
    schema = '{"type": "object", "properties": {"a": {"type": "number", "maximum": 1e999}}}'
    tool = f'{{"type": "function", "function": {{"name": "f", "strict": true, "parameters": {schema}}}}}'
    form = f'{{"type": "json_schema", "json_schema": {{"name": "a", "schema": {schema}}}}}'
    for more, field in (
        (f'"response_format": {form}', "response_format"),
        (f'"tools": [{tool}]', "tools"),
        (f'"tools": [{tool}], "tool_choice": "required"', "tools"),
    ):
        body = f'{{"messages": [{{"role": "user", "content": "hello"}}], {more}}}'
        answer = node.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"].startswith(field)


def test_places_are_told_as_the_client_counts_them(node: Node) -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "wizard", "content": "x"}]
    answer = node.http.post("/v1/chat/completions", json={"messages": messages, "safe_prompt": True})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages[1].role"


def test_ids_beyond_the_vocabulary_leave_nothing_behind(node: Node) -> None:
    process = psutil.Process(node.process.pid)

    def ask(start: int) -> int:
        body = {"prompt": list(range(start, start + 400_000)), "echo": True, "max_tokens": 1}
        assert node.http.post("/v1/completions", json=body).status_code == 400
        return process.memory_info().rss

    ask(1_000_000)
    before = ask(1_000_000)
    assert max(ask(start) for start in (2_000_000, 3_000_000, 4_000_000)) - before < 40 * 2**20
