"""Streams for clients that ask for them by type: calls whole, usage with the end."""

from __future__ import annotations

import json
from typing import Any

from nodes import Node, scripted_node

SCRIPT = {
    "both": '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{"b": [2, 3]}',
    "hello": "Hello there.",
}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in "fg"]


def _chunks(node: Node, text: str, accept: str, **fields: Any) -> list[dict[str, Any]]:
    body = {"messages": [{"role": "user", "content": text}], "stream": True, **fields}
    answer = node.http.post("/v1/chat/completions", json=body, headers={"accept": accept})
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def test_calls_come_whole_and_the_end_has_the_usage() -> None:
    with scripted_node(SCRIPT) as node:
        chunks = _chunks(node, "both", "text/event-stream; q=1", tools=TOOLS, n=2)
        calls = [
            (choice["index"], call["index"], call["function"]["name"], json.loads(call["function"]["arguments"]))
            for chunk in chunks
            for choice in chunk["choices"]
            for call in choice["delta"].get("tool_calls", [])
        ]
        expected = [(0, "f", {"a": 1}), (1, "g", {"b": [2, 3]})]
        assert sorted(calls) == [(choice, *call) for choice in (0, 1) for call in expected]
        assert [bool(chunk.get("usage")) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
        said = _chunks(node, "hello", "text/event-stream")
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in said) == "Hello there."
        assert said[-1]["usage"]["completion_tokens"] > 2
        others = _chunks(node, "both", "application/json", tools=TOOLS)
        assert not any(chunk.get("usage") for chunk in others)
        pieces = [chunk["choices"][0]["delta"].get("tool_calls") for chunk in others]
        assert sum(piece is not None for piece in pieces) > 4
