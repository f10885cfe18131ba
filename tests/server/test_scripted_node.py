"""The scripted node answers in real tokens, as other tests rely on."""

from __future__ import annotations

from nodes import scripted_node
from scripted_engine import OTHERWISE

SCRIPT = {
    "weather in Paris": '[TOOL_CALLS]weather[ARGS]{"city": "Paris"}',
    "21 degrees": "It is warm.",
    "count": {"say": "one two ", "step_s": 0.01, "ends": False},
}


def test_the_rule_that_stands_last_answers() -> None:
    with scripted_node(SCRIPT) as node:
        assert node.chat("weather in Paris? They say 21 degrees", max_tokens=40).json()["choices"][0]["message"] == {
            "role": "assistant",
            "content": "It is warm.",
        }
        assert node.chat("hello", max_tokens=60).json()["choices"][0]["message"]["content"] == OTHERWISE
        endless = node.chat("count", max_tokens=7, return_token_ids=True).json()["choices"][0]
        assert endless["finish_reason"] == "length"
        assert len(endless["token_ids"]) == 7
        called = node.chat("weather in Paris", max_tokens=60, return_token_ids=True).json()["choices"][0]
        assert called["token_ids"][0] == 9  # [TOOL_CALLS] itself, not its letters
