"""litellm's client against live nodes, by the providers that people configure for servers of their own."""

from __future__ import annotations

import json
from typing import Any, Literal

import litellm
import pytest
from nodes import Node
from pydantic import BaseModel, ConfigDict
from script import (
    ANSWER,
    BOTH,
    COMPARED,
    FORCED_TOOL,
    HELLO,
    OTHER_RESULT,
    RESULT,
    SCRIPT,
    THINK,
    WEATHER,
    WEATHER_TOOL,
)

litellm.suppress_debug_info = True

PROVIDERS = ("openai", "hosted_vllm", "mistral")


def to(node: Node, model: str, provider: str = "openai", key: str = "any") -> dict[str, Any]:
    return {"model": f"{provider}/{model}", "api_base": node.base, "api_key": key, "max_retries": 0}


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_plain_and_streamed_are_the_same_answer(live: Node, provider: str) -> None:
    asked = {"messages": user("Where is my card?"), "max_tokens": 24, "temperature": 0}
    whole: Any = litellm.completion(**to(live, "ostro-nano", provider), **asked)
    assert whole.choices[0].message.content
    stream: Any = litellm.completion(
        **to(live, "ostro-nano", provider), **asked, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    if provider != "mistral":  # for which it asks for no usage and guesses
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("stream", [False, True])
def test_parallel_calls_over_two_turns(scripted: Node, provider: str, stream: bool) -> None:
    asked: dict[str, Any] = {**to(scripted, "scripted", provider), "tools": [WEATHER_TOOL], "stream": stream}

    def ask(messages: list[Any]) -> Any:
        answer: Any = litellm.completion(messages=messages, **asked)
        return (litellm.stream_chunk_builder(list(answer)) if stream else answer).choices[0]

    messages = user(BOTH)
    first = ask(messages)
    assert first.finish_reason == "tool_calls"
    calls = first.message.tool_calls
    assert [json.loads(call.function.arguments)["city"] for call in calls] == ["Paris", "Rome"]
    results = [
        {"role": "tool", "name": "get_weather", "tool_call_id": call.id, "content": text}
        for call, text in zip(calls, (RESULT, OTHER_RESULT), strict=True)
    ]
    assert ask([*messages, first.message, *results]).message.content == COMPARED


def test_one_call_over_two_turns(scripted: Node) -> None:
    asked = {**to(scripted, "scripted"), "tools": [WEATHER_TOOL]}
    first: Any = litellm.completion(messages=user(WEATHER), **asked)
    message = first.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": RESULT}
    second: Any = litellm.completion(messages=[*user(WEATHER), message, result], **asked)
    assert second.choices[0].message.content == ANSWER


def test_a_forced_call_is_valid_even_from_a_tiny_model(live: Node) -> None:
    answer: Any = litellm.completion(
        **to(live, "ostro-nano"), messages=user("Rain?"), tools=[FORCED_TOOL], tool_choice="required"
    )
    for call in answer.choices[0].message.tool_calls:
        assert json.loads(call.function.arguments)["unit"] in ("celsius", "kelvin")


class Report(BaseModel):
    model_config = ConfigDict(extra="forbid")

    mood: Literal["good", "bad"]
    score: Literal[1, 2, 3]


def test_structured_output(live: Node) -> None:
    answer: Any = litellm.completion(
        **to(live, "ostro-nano"), messages=user("How are you?"), response_format=Report, max_tokens=200
    )
    assert Report.model_validate_json(answer.choices[0].message.content)


def test_reasoning_is_apart(scripted: Node) -> None:
    answer: Any = litellm.completion(**to(scripted, "scripted"), messages=user(THINK))
    assert answer.choices[0].message.reasoning_content == "Two and two make four."
    assert answer.choices[0].message.content == "Four."


def test_embeddings(live: Node) -> None:
    answer = litellm.embedding(**to(live, "ostro-nano"), input=["Where is my card?", "Hello"], encoding_format="float")
    assert sum(value * value for value in answer.data[0]["embedding"]) == pytest.approx(1.0, abs=1e-3)


def test_text_completions(live: Node) -> None:
    answer: Any = litellm.text_completion(
        **to(live, "ostro-nano", "text-completion-openai"), prompt="Where", max_tokens=4
    )
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_responses(scripted: Node) -> None:
    answer: Any = litellm.responses(**to(scripted, "scripted"), input=HELLO)
    assert answer.output[0].content[0].text == SCRIPT[HELLO]


def test_errors_become_the_packages_own_classes(live: Node, keyed: Node, loading: Node) -> None:
    def refused(kind: type[Exception], node: Node, model: str, key: str = "any", **fields: Any) -> None:
        with pytest.raises(kind):
            litellm.completion(**to(node, model, key=key), messages=user("x"), **fields)

    refused(litellm.NotFoundError, live, "nope")
    refused(litellm.BadRequestError, live, "ostro-nano", temperature=-1)
    refused(litellm.ContextWindowExceededError, live, "ostro-nano", max_tokens=10_000_000)
    refused(litellm.AuthenticationError, keyed, "scripted", key="wrong")
    refused(litellm.ServiceUnavailableError, loading, "fake")
