"""The openai package's `responses` against live nodes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from nodes import Node
from pydantic import BaseModel, ConfigDict
from script import (
    ANSWER,
    BOTH,
    COMPARED,
    ENDLESS,
    HELLO,
    OTHER_RESULT,
    RESULT,
    SCRIPT,
    THINK,
    WEATHER,
    WEATHER_PARAMETERS,
)

TOOL: Any = {"type": "function", "name": "get_weather", "parameters": WEATHER_PARAMETERS, "strict": True}


class Report(BaseModel):
    model_config = ConfigDict(extra="forbid")

    mood: Literal["good", "bad"]
    score: Literal[1, 2, 3]


@pytest.fixture
def real(live: Node) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=live.base, api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def sdk(scripted: Node) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=scripted.base, api_key="any", max_retries=0) as client:
        yield client


def test_plain_and_streamed_are_the_same_answer(real: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "ostro-nano", "input": "Where is my card?", "max_output_tokens": 24}
    answer = real.responses.create(**asked, temperature=0)
    assert answer.output_text
    with real.responses.stream(**asked, temperature=0) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert text == answer.output_text
    raw = list(real.responses.create(**asked, temperature=0, stream=True))
    assert raw[0].type == "response.created"
    assert raw[-1].type in ("response.completed", "response.incomplete")
    assert raw[-1].response.output_text == text
    assert raw[-1].response.usage is not None
    assert answer.usage is not None
    assert raw[-1].response.usage.total_tokens == answer.usage.total_tokens


def test_stored_answers_live_as_the_package_expects(sdk: openai.OpenAI) -> None:
    first = sdk.responses.create(model="scripted", input=HELLO, metadata={"team": "a"})
    assert sdk.responses.retrieve(first.id) == first
    second = sdk.responses.create(model="scripted", input="And then?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    listed = list(sdk.responses.input_items.list(second.id, limit=2))  # pages by itself
    assert [item.type for item in listed] == ["message"] * 3
    with pytest.raises(openai.BadRequestError, match="Cannot cancel"):
        sdk.responses.cancel(first.id)
    sdk.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as gone:
        sdk.responses.create(model="scripted", input="x", previous_response_id=first.id)
    assert (gone.value.code, gone.value.param) == ("previous_response_not_found", "previous_response_id")


def test_tools_streamed_over_two_stored_turns(sdk: openai.OpenAI) -> None:
    with sdk.responses.stream(model="scripted", input=BOTH, tools=[TOOL]) as stream:
        names = [event.type for event in stream]
        first = stream.get_final_response()
    assert "response.function_call_arguments.done" in names
    calls = [item for item in first.output if item.type == "function_call"]
    assert [json.loads(call.arguments) for call in calls] == [{"city": "Paris"}, {"city": "Rome"}]
    results: Any = [
        {"type": "function_call_output", "call_id": call.call_id, "output": text}
        for call, text in zip(calls, (RESULT, OTHER_RESULT), strict=True)
    ]
    second = sdk.responses.create(model="scripted", input=results, tools=[TOOL], previous_response_id=first.id)
    assert second.output_text == COMPARED


def test_tools_without_a_store_send_the_items_back(sdk: openai.OpenAI) -> None:
    asked: Any = [{"role": "user", "content": WEATHER}]
    first = sdk.responses.create(model="scripted", input=asked, tools=[TOOL], store=False)
    (call,) = [item for item in first.output if item.type == "function_call"]
    asked += [*first.output, {"type": "function_call_output", "call_id": call.call_id, "output": RESULT}]
    assert sdk.responses.create(model="scripted", input=asked, tools=[TOOL], store=False).output_text == ANSWER


def test_reasoning_is_an_item_of_its_own(sdk: openai.OpenAI) -> None:
    with sdk.responses.stream(model="scripted", input=THINK) as stream:
        thought = "".join(event.delta for event in stream if event.type == "response.reasoning_text.delta")
        answer = stream.get_final_response()
    assert answer.output_text == "Four."
    (item,) = [item for item in answer.output if item.type == "reasoning"]
    assert item.content is not None
    assert item.content[0].text == thought == "Two and two make four."
    assert answer.usage is not None
    assert answer.usage.output_tokens_details.reasoning_tokens


def test_structured_output_and_forced_calls_from_a_tiny_model(real: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "ostro-nano", "max_output_tokens": 200}
    parsed = real.responses.parse(**asked, input="How are you?", text_format=Report)
    assert isinstance(parsed.output_parsed, Report)
    with real.responses.stream(**asked, input="How are you?", text_format=Report) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Report)
    parameters: Any = {
        "type": "object",
        "properties": {"unit": {"enum": ["celsius", "kelvin"]}},
        "required": ["unit"],
        "additionalProperties": False,
    }
    tool: Any = {"type": "function", "name": "forecast", "parameters": parameters, "strict": True}
    for choice in ("required", {"type": "function", "name": "forecast"}):
        forced = real.responses.create(
            **asked, input="Will it rain?", tools=[tool], tool_choice=choice, parallel_tool_calls=False
        )
        (call,) = [item for item in forced.output if item.type == "function_call"]
        assert json.loads(call.arguments)["unit"] in ("celsius", "kelvin")


def test_errors_become_the_packages_own_classes(sdk: openai.OpenAI, keyed: Node) -> None:
    with pytest.raises(openai.NotFoundError):
        sdk.responses.create(model="nope", input="x")
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.responses.create(model="scripted", input="x", max_output_tokens=0)
    assert bad.value.param == "max_output_tokens"
    tools: Any = [{"type": "web_search"}]
    with pytest.raises(openai.BadRequestError) as unknown:
        sdk.responses.create(model="scripted", input="x", tools=tools)
    assert unknown.value.param == "tools[0].type"
    stranger = openai.OpenAI(base_url=keyed.base, api_key="wrong", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.responses.create(model="scripted", input="x")


def test_an_error_within_a_stream_is_raised(sdk: openai.OpenAI) -> None:
    stream = sdk.responses.create(model="scripted", input=ENDLESS, stream=True, extra_body={"timeout": 0.5})
    with pytest.raises(openai.APIError, match="deadline"):
        for _ in stream:
            pass


def test_the_asynchronous_client(scripted: Node) -> None:
    async def main() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=scripted.base, api_key="any", max_retries=0) as client:
            async with client.responses.stream(model="scripted", input=HELLO) as stream:
                final = await stream.get_final_response()
            stored = await client.responses.retrieve(final.id)
            return final.output_text, stored.output_text

    assert asyncio.run(main()) == (SCRIPT[HELLO], SCRIPT[HELLO])
