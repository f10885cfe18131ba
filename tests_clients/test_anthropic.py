"""The anthropic package against live nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from nodes import Node
from script import ANSWER, BOTH, FORCED_PARAMETERS, HELLO, RESULT, SCRIPT, WEATHER, WEATHER_PARAMETERS

TOOLS: list[Any] = [{"name": "get_weather", "description": "Weather of a city.", "input_schema": WEATHER_PARAMETERS}]


def user(content: Any) -> Any:
    return {"role": "user", "content": content}


@pytest.fixture
def sdk(scripted: Node) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=scripted.url, api_key="any", max_retries=0) as client:
        yield client


def test_plain(sdk: anthropic.Anthropic) -> None:
    answer = sdk.messages.create(model="scripted", max_tokens=100, messages=[user(HELLO)], system="Be brief.")
    (block,) = answer.content
    assert block.type == "text"
    assert block.text == SCRIPT[HELLO]
    assert (answer.role, answer.stop_reason) == ("assistant", "end_turn")
    assert answer.usage.input_tokens
    assert answer.usage.output_tokens


def test_streamed(sdk: anthropic.Anthropic) -> None:
    with sdk.messages.stream(model="scripted", max_tokens=100, messages=[user(HELLO)]) as stream:
        assert "".join(stream.text_stream) == SCRIPT[HELLO]
        assert stream.get_final_message().stop_reason == "end_turn"


def test_a_limit_is_told(sdk: anthropic.Anthropic) -> None:
    answer = sdk.messages.create(model="scripted", max_tokens=2, messages=[user(HELLO)])
    assert answer.stop_reason == "max_tokens"


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_over_two_turns(sdk: anthropic.Anthropic, streamed: bool) -> None:
    def ask(messages: list[Any]) -> anthropic.types.Message:
        asked: dict[str, Any] = {"model": "scripted", "max_tokens": 200, "messages": messages, "tools": TOOLS}
        if not streamed:
            return sdk.messages.create(**asked)
        with sdk.messages.stream(**asked) as stream:
            return stream.get_final_message()

    messages = [user(WEATHER)]
    first = ask(messages)
    assert first.stop_reason == "tool_use"
    (call,) = [block for block in first.content if block.type == "tool_use"]
    assert (call.name, call.input) == ("get_weather", {"city": "Paris"})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": RESULT}
    second = ask([*messages, {"role": "assistant", "content": first.content}, user([result])])
    assert [block.text for block in second.content if block.type == "text"] == [ANSWER]
    both = ask([user(BOTH)])
    assert [block.input for block in both.content if block.type == "tool_use"] == [{"city": "Paris"}, {"city": "Rome"}]


def test_a_forced_call_is_valid_even_from_a_tiny_model(live: Node) -> None:
    tool: Any = {"name": "forecast", "input_schema": FORCED_PARAMETERS}
    with anthropic.Anthropic(base_url=live.url, api_key="any", max_retries=0) as real:
        answer = real.messages.create(
            model="ostro-nano",
            max_tokens=300,
            messages=[user("Will it rain?")],
            tools=[tool],
            tool_choice={"type": "tool", "name": "forecast", "disable_parallel_tool_use": True},
        )
    (call,) = [block for block in answer.content if block.type == "tool_use"]
    assert isinstance(call.input, dict)
    assert call.input["unit"] in ("celsius", "kelvin")


def test_a_schema_is_kept_and_cached_tokens_are_told_apart(live: Node) -> None:
    asked: dict[str, Any] = {"model": "ostro-nano", "messages": [user("Will it rain? " * 40)]}
    config: Any = {"format": {"type": "json_schema", "schema": FORCED_PARAMETERS}}
    with anthropic.Anthropic(base_url=live.url, api_key="any", max_retries=0) as real:
        counted = real.messages.count_tokens(**asked).input_tokens
        first = real.messages.create(**asked, max_tokens=300, output_config=config)
        with real.messages.stream(**asked, max_tokens=300, output_config=config) as stream:
            again = stream.get_final_message()
    for answer in (first, again):
        (block,) = [block for block in answer.content if block.type == "text"]
        assert json.loads(block.text)["unit"] in ("celsius", "kelvin")
        assert answer.usage.cache_read_input_tokens is not None
        assert answer.usage.input_tokens + answer.usage.cache_read_input_tokens == counted
    assert again.usage.cache_read_input_tokens


def test_tokens_are_counted(sdk: anthropic.Anthropic) -> None:
    counted = sdk.messages.count_tokens(model="scripted", messages=[user(HELLO)])
    answer = sdk.messages.create(model="scripted", max_tokens=2, messages=[user(HELLO)])
    assert counted.input_tokens == answer.usage.input_tokens


def test_errors_become_the_packages_own_classes(sdk: anthropic.Anthropic, keyed: Node) -> None:
    asked: dict[str, Any] = {"max_tokens": 10, "messages": [user("x")]}
    with pytest.raises(anthropic.NotFoundError):
        sdk.messages.create(model="nope", **asked)
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        sdk.messages.create(model="scripted", extra_body={"temperature": -1}, **asked)
    stranger = anthropic.Anthropic(base_url=keyed.url, api_key="wrong", max_retries=0)
    with stranger, pytest.raises(anthropic.AuthenticationError):
        stranger.messages.create(model="scripted", **asked)
    with anthropic.Anthropic(base_url=keyed.url, api_key="right", max_retries=0) as known:
        assert known.messages.create(model="scripted", **asked).content
