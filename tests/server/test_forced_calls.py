"""A forced call from a model that was never taught to think begins at once, whatever it is sampled from."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from nodes import Node

TOOL = {
    "type": "function",
    "function": {
        "name": "forecast",
        "parameters": {
            "type": "object",
            "properties": {"unit": {"enum": ["celsius", "kelvin"]}},
            "required": ["unit"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def real() -> Iterator[Node]:
    command = [sys.executable, "-m", "ostro", "serve", "ostro-nano", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        port = next(line for line in process.stderr if "http://" in line).split("127.0.0.1:")[1]
        node = Node(process, int("".join(letter for letter in port[:5] if letter.isdigit())))
        try:
            node.wait_ready()
            yield node
        finally:
            node.http.close()
            process.kill()


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "forecast"}}])
def test_a_forced_call_begins_at_once(real: Node, choice: Any) -> None:
    for seed in range(6):
        answer = real.chat("Will it rain?", tools=[TOOL], tool_choice=choice, max_tokens=80, seed=seed).json()
        message = answer["choices"][0]["message"]
        assert "reasoning_content" not in message
        assert message["tool_calls"][0]["function"]["name"] == "forecast"
