"""What answers hold beside their text reaches the clients, whole and streamed, from a node that calls and thinks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from nodes import Node, scripted_node

from ostro.client import AsyncClient, ChatDelta, Client
from ostro.client.results import chat_result, delta_of

SCRIPT = {
    "both": '[TOOL_CALLS]weather[ARGS]{"city": "Paris"}[TOOL_CALLS]now[ARGS]{}',
    "think": "[THINK]It is June.[/THINK]Warm.",
    "21 degrees": "It is warm.",
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("weather", "now")
]


@pytest.fixture(scope="module")
def scripted() -> Iterator[Node]:
    with scripted_node(SCRIPT) as node:
        yield node


def joined(deltas: list[ChatDelta]) -> list[tuple[str, str, str]]:
    calls: dict[int, tuple[str, str, str]] = {}
    for delta in deltas:
        for piece in delta.tool_calls:
            before = calls.get(piece.index, ("", "", ""))
            calls[piece.index] = (before[0] + piece.id, before[1] + piece.name, before[2] + piece.arguments)
    return [calls[index] for index in sorted(calls)]


def test_calls_over_two_turns(scripted: Node) -> None:
    with Client(endpoint=scripted.url) as client:
        messages: list[Any] = [{"role": "user", "content": "both"}]
        whole = client.chat(messages, tools=TOOLS)
        assert whole.finish_reason == "tool_calls"
        assert [(call.name, json.loads(call.arguments)) for call in whole.tool_calls] == [
            ("weather", {"city": "Paris"}),
            ("now", {}),
        ]
        deltas = list(client.chat(messages, tools=TOOLS, stream=True))
        assert [call[1:] for call in joined(deltas)] == [(call.name, call.arguments) for call in whole.tool_calls]
        assert all(len(call[0]) == 9 for call in joined(deltas))
        assert deltas[-1].usage is not None
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in whole.tool_calls
        ]
        messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        messages += [{"role": "tool", "tool_call_id": call.id, "content": "21 degrees"} for call in whole.tool_calls]
        assert client.chat(messages, tools=TOOLS).text == "It is warm."


def test_reasoning_is_apart(scripted: Node) -> None:
    with Client(endpoint=scripted.url) as client:
        whole = client.chat([{"role": "user", "content": "think"}])
        assert (whole.reasoning, whole.text) == ("It is June.", "Warm.")
        assert whole.usage.reasoning_tokens > 1
        chunks = client.chat([{"role": "user", "content": "think"}], prompt_mode="reasoning")
        assert (chunks.reasoning, chunks.text) == ("It is June.", "Warm.")

    async def stream() -> list[ChatDelta]:
        async with AsyncClient(endpoint=scripted.url) as client:
            found = await client.chat([{"role": "user", "content": "think"}], stream=True)
            return [delta async for delta in found]

    deltas = asyncio.run(stream())
    assert "".join(delta.reasoning for delta in deltas) == "It is June."
    assert "".join(delta.text for delta in deltas) == "Warm."


def test_other_servers_shapes_are_read() -> None:
    body = {
        "choices": [{"message": {"role": "assistant", "content": None, "reasoning": "so"}, "finish_reason": "stop"}]
    }
    assert (chat_result(body).text, chat_result(body).reasoning) == ("", "so")
    assert chat_result({"choices": [{"text": "plain"}]}).text == "plain"
    assert delta_of('data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}') is None
    assert delta_of('data: {"choices": [{"text": "a"}]}') == ChatDelta("a")
    assert delta_of(": comment") is None
