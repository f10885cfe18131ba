"""The openai package against live nodes."""

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
    AS_JSON,
    BOTH,
    COMPARED,
    ENDLESS,
    FORCED_TOOL,
    HELLO,
    OTHER_RESULT,
    RESULT,
    SCRIPT,
    THINK,
    WEATHER,
    WEATHER_TOOL,
)


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def real(live: Node) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=live.base, api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def sdk(scripted: Node) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=scripted.base, api_key="any", max_retries=0) as client:
        yield client


def test_plain_and_streamed_are_the_same_answer(real: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "ostro-nano", "messages": user("Where is my card?"), "max_tokens": 24}
    answer = real.chat.completions.create(**asked, temperature=0)
    assert answer.choices[0].message.content
    stream = real.chat.completions.create(**asked, temperature=0, stream=True, stream_options={"include_usage": True})
    *chunks, last = stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer.choices[0].message.content
    assert last.choices == []
    assert last.usage is not None
    assert answer.usage is not None
    assert last.usage.total_tokens == answer.usage.total_tokens


def test_plain_completions(real: openai.OpenAI) -> None:
    answer = real.completions.create(model="ostro-nano", prompt=["Where", "My card"], max_tokens=4, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]


def test_models(real: openai.OpenAI) -> None:
    assert [model.id for model in real.models.list()] == ["ostro-nano"]


def test_tools_over_two_turns(sdk: openai.OpenAI) -> None:
    messages = user(WEATHER)
    first = sdk.chat.completions.create(model="scripted", messages=messages, tools=[WEATHER_TOOL]).choices[0]
    assert first.finish_reason == "tool_calls"
    assert first.message.content is None
    (call,) = first.message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    messages += [first.message, {"role": "tool", "tool_call_id": call.id, "content": RESULT}]
    second = sdk.chat.completions.create(model="scripted", messages=messages, tools=[WEATHER_TOOL]).choices[0]
    assert (second.message.content, second.finish_reason) == (ANSWER, "stop")


def test_parallel_calls_streamed_over_two_turns(sdk: openai.OpenAI) -> None:
    messages = user(BOTH)
    with sdk.chat.completions.stream(model="scripted", messages=messages, tools=[WEATHER_TOOL]) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_completion().choices[0].message
    assert "tool_calls.function.arguments.delta" in kinds
    calls = message.tool_calls or []
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Paris"}, {"city": "Rome"}]
    assert len({call.id for call in calls}) == 2
    results = zip(calls, (RESULT, OTHER_RESULT), strict=True)
    messages += [message, *({"role": "tool", "tool_call_id": call.id, "content": text} for call, text in results)]
    stream = sdk.chat.completions.create(model="scripted", messages=messages, tools=[WEATHER_TOOL], stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == COMPARED


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "forecast"}}])
def test_a_forced_call_is_valid_even_from_a_tiny_model(real: openai.OpenAI, choice: Any) -> None:
    tools: Any = [FORCED_TOOL]
    answer = real.chat.completions.create(
        model="ostro-nano", messages=user("Will it rain?"), tools=tools, tool_choice=choice, parallel_tool_calls=False
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "forecast"
    arguments = json.loads(call.function.arguments)
    assert arguments["unit"] in ("celsius", "kelvin")
    assert 1 <= arguments["days"] <= 9
    assert answer.choices[0].finish_reason == "tool_calls"


class Report(BaseModel):
    model_config = ConfigDict(extra="forbid")

    mood: Literal["good", "bad"]
    score: Literal[1, 2, 3]


def test_structured_output(real: openai.OpenAI, sdk: openai.OpenAI) -> None:
    parsed = real.chat.completions.parse(
        model="ostro-nano", messages=user("How are you?"), response_format=Report, max_tokens=200
    )
    assert isinstance(parsed.choices[0].message.parsed, Report)
    whole = sdk.chat.completions.create(
        model="scripted", messages=user(AS_JSON), response_format={"type": "json_object"}
    )
    assert json.loads(whole.choices[0].message.content or "") == {"city": "Paris", "degrees": 21}


def test_reasoning_is_apart(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="scripted", messages=user(THINK))
    assert answer.choices[0].message.content == "Four."
    assert answer.choices[0].message.reasoning_content == "Two and two make four."  # type: ignore[attr-defined]  # beyond its own fields
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens
    text = thought = ""
    for chunk in sdk.chat.completions.create(model="scripted", messages=user(THINK), stream=True):
        text += chunk.choices[0].delta.content or ""
        thought += getattr(chunk.choices[0].delta, "reasoning_content", None) or ""
    assert (text, thought) == ("Four.", "Two and two make four.")


def test_embeddings(real: openai.OpenAI) -> None:
    # The package asks for base64 by itself and decodes it.
    answer = real.embeddings.create(model="ostro-nano", input=["Where is my card?", "Hello"])
    assert [item.index for item in answer.data] == [0, 1]
    assert sum(value * value for value in answer.data[0].embedding) == pytest.approx(1.0, abs=1e-3)
    floats = real.embeddings.create(model="ostro-nano", input="Hello", encoding_format="float")
    assert floats.data[0].embedding == pytest.approx(answer.data[1].embedding, abs=1e-5)


def test_responses(sdk: openai.OpenAI) -> None:
    first = sdk.responses.create(model="scripted", input=HELLO)
    assert first.output_text == SCRIPT[HELLO]
    assert sdk.responses.retrieve(first.id).output_text == SCRIPT[HELLO]
    second = sdk.responses.create(model="scripted", input=WEATHER, previous_response_id=first.id)
    assert second.output_text != first.output_text
    sdk.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(first.id)


def test_responses_streamed(sdk: openai.OpenAI) -> None:
    with sdk.responses.stream(model="scripted", input=HELLO, store=False) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert final.output_text == SCRIPT[HELLO]


def test_responses_with_tools(sdk: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "strict": False, **WEATHER_TOOL["function"]}  # type: ignore[dict-item]  # untyped JSON
    asked: list[Any] = [{"role": "user", "content": WEATHER}]
    first = sdk.responses.create(model="scripted", input=asked, tools=[tool], store=False)
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert json.loads(call.arguments) == {"city": "Paris"}
    asked += [*first.output, {"type": "function_call_output", "call_id": call.call_id, "output": RESULT}]
    second = sdk.responses.create(model="scripted", input=asked, tools=[tool], store=False)
    assert second.output_text == ANSWER


def test_structured_responses(real: openai.OpenAI) -> None:
    parsed = real.responses.parse(model="ostro-nano", input="How are you?", text_format=Report, max_output_tokens=200)
    assert isinstance(parsed.output_parsed, Report)


def test_errors_become_the_packages_own_classes(real: openai.OpenAI, keyed: Node, loading: Node) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        real.chat.completions.create(model="nope", messages=user("x"))
    assert missing.value.code == "model_not_found"
    assert missing.value.param == "model"
    with pytest.raises(openai.BadRequestError) as bad:
        real.chat.completions.create(model="ostro-nano", messages=user("x"), temperature=-1)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as schema:
        real.chat.completions.create(
            model="ostro-nano",
            messages=user("x"),
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}},
        )
    assert (schema.value.param or "").startswith("response_format")
    with openai.OpenAI(base_url=keyed.base, api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()
        with pytest.raises(openai.AuthenticationError):
            stranger.chat.completions.create(model="scripted", messages=user("x"))
    with openai.OpenAI(base_url=loading.base, api_key="any", max_retries=0) as early:
        with pytest.raises(openai.InternalServerError) as unready:
            early.chat.completions.create(model="fake", messages=user("x"))
        assert unready.value.status_code == 503
        assert int(unready.value.response.headers["retry-after"]) >= 1


def test_a_full_queue_is_a_rate_limit_error(keyed: Node) -> None:
    async def crowd() -> list[object]:
        async with openai.AsyncOpenAI(base_url=keyed.base, api_key="right", max_retries=0) as client:
            ask = client.chat.completions.create
            asked: Any = {"model": "scripted", "messages": user(ENDLESS), "max_tokens": 20}
            return await asyncio.gather(*(ask(**asked) for _ in range(4)), return_exceptions=True)

    outcomes = asyncio.run(crowd())
    refused = [error for error in outcomes if isinstance(error, openai.RateLimitError)]
    assert len(refused) == 2, outcomes
    assert int(refused[0].response.headers["retry-after"]) >= 1
