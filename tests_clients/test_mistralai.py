"""The mistralai package against live nodes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from mistralai.client import Mistral, models
from mistralai.client.errors import SDKError
from nodes import Node
from pydantic import BaseModel, ConfigDict
from script import (
    ANSWER,
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
def real(live: Node) -> Iterator[Mistral]:
    with Mistral(api_key="any", server_url=live.url) as client:
        yield client


@pytest.fixture
def sdk(scripted: Node) -> Iterator[Mistral]:
    with Mistral(api_key="any", server_url=scripted.url) as client:
        yield client


def text_of(stream: Any) -> str:
    return "".join(event.data.choices[0].delta.content or "" for event in stream)


def test_plain_and_streamed_are_the_same_answer(real: Mistral) -> None:
    asked: dict[str, Any] = {"model": "ostro-nano", "messages": user("Where is my card?"), "max_tokens": 24}
    answer = real.chat.complete(**asked, temperature=0, safe_prompt=False, random_seed=1)
    assert answer.choices[0].message.content
    assert text_of(real.chat.stream(**asked, temperature=0)) == answer.choices[0].message.content
    assert answer.usage.total_tokens == (answer.usage.prompt_tokens or 0) + (answer.usage.completion_tokens or 0)


def test_usage_in_a_stream(sdk: Mistral) -> None:
    *_, last = list(sdk.chat.stream(model="scripted", messages=user(HELLO)))
    assert last.data.choices[0].finish_reason == "stop"
    assert last.data.usage is not None
    assert last.data.usage.completion_tokens


def test_a_prefix_is_gone_on_with(sdk: Mistral) -> None:
    messages: list[Any] = [*user(HELLO), {"role": "assistant", "content": "Oh: ", "prefix": True}]
    answer = sdk.chat.complete(model="scripted", messages=messages)
    assert answer.choices[0].message.content == "Oh: " + SCRIPT[HELLO]


def test_models(real: Mistral) -> None:
    (model,) = real.models.list().data or []
    assert model.id == "ostro-nano"
    assert model.capabilities.completion_chat
    assert model.capabilities.function_calling
    assert real.models.retrieve(model_id="ostro-nano").max_context_length


def test_tools_over_two_turns(sdk: Mistral) -> None:
    tools: Any = [WEATHER_TOOL]
    first = sdk.chat.complete(model="scripted", messages=user(WEATHER), tools=tools, tool_choice="auto").choices[0]
    assert first.finish_reason == "tool_calls"
    (call,) = first.message.tool_calls or []
    assert json.loads(str(call.function.arguments)) == {"city": "Paris"}
    result: Any = {"role": "tool", "name": "get_weather", "content": RESULT, "tool_call_id": call.id}
    messages = [*user(WEATHER), first.message, result]
    second = sdk.chat.complete(model="scripted", messages=messages, tools=tools)
    assert second.choices[0].message.content == ANSWER


def test_parallel_calls_streamed_over_two_turns(sdk: Mistral) -> None:
    tools: Any = [WEATHER_TOOL]
    calls: dict[int, dict[str, str]] = {}
    reason = None
    for event in sdk.chat.stream(model="scripted", messages=user(BOTH), tools=tools):
        choice = event.data.choices[0]
        reason = choice.finish_reason or reason
        for call in choice.delta.tool_calls or []:
            so_far = calls.setdefault(call.index or 0, {"id": "", "name": "", "arguments": ""})
            so_far["id"] = call.id if call.id and call.id != "null" else so_far["id"]
            so_far["name"] += call.function.name
            so_far["arguments"] += str(call.function.arguments)
    assert reason == "tool_calls"
    assert [(call["name"], json.loads(call["arguments"])["city"]) for call in calls.values()] == [
        ("get_weather", "Paris"),
        ("get_weather", "Rome"),
    ]
    said: Any = [
        {"id": call["id"], "function": {"name": call["name"], "arguments": call["arguments"]}}
        for call in calls.values()
    ]
    results: list[Any] = [
        {"role": "tool", "name": "get_weather", "content": text, "tool_call_id": call["id"]}
        for call, text in zip(calls.values(), (RESULT, OTHER_RESULT), strict=True)
    ]
    messages: list[Any] = [*user(BOTH), {"role": "assistant", "content": "", "tool_calls": said}, *results]
    assert text_of(sdk.chat.stream(model="scripted", messages=messages, tools=tools)) == COMPARED


@pytest.mark.parametrize("choice", ["any", "required", {"type": "function", "function": {"name": "forecast"}}])
def test_a_forced_call_is_valid_even_from_a_tiny_model(real: Mistral, choice: Any) -> None:
    tools: Any = [FORCED_TOOL]
    answer = real.chat.complete(
        model="ostro-nano",
        messages=user("Will it rain?"),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=False,
    )
    (call,) = answer.choices[0].message.tool_calls or []
    arguments = json.loads(str(call.function.arguments))
    assert arguments["unit"] in ("celsius", "kelvin")
    assert 1 <= arguments["days"] <= 9


class Report(BaseModel):
    model_config = ConfigDict(extra="forbid")

    mood: Literal["good", "bad"]
    score: Literal[1, 2, 3]


def test_structured_output(real: Mistral) -> None:
    answer = real.chat.parse(Report, model="ostro-nano", messages=user("How are you?"), max_tokens=200, temperature=0)
    assert answer.choices is not None
    assert answer.choices[0].message is not None
    assert isinstance(answer.choices[0].message.parsed, Report)
    whole = real.chat.complete(
        model="ostro-nano", messages=user("x"), response_format={"type": "json_object"}, max_tokens=8
    )
    assert str(whole.choices[0].message.content).lstrip().startswith("{")


def test_reasoning_as_mistral_has_it(sdk: Mistral) -> None:
    answer = sdk.chat.complete(model="scripted", messages=user(THINK), prompt_mode="reasoning")
    thought, said = answer.choices[0].message.content or []
    assert isinstance(thought, models.ThinkChunk)
    assert isinstance(thought.thinking[0], models.TextChunk)
    assert thought.thinking[0].text == "Two and two make four."
    assert isinstance(said, models.TextChunk)
    assert said.text == "Four."


def test_fim(real: Mistral) -> None:
    asked: dict[str, Any] = {"model": "ostro-nano", "prompt": "def f():", "suffix": "return x", "max_tokens": 6}
    answer = real.fim.complete(**asked, temperature=0)
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert text_of(real.fim.stream(**asked, temperature=0)) == answer.choices[0].message.content


def test_embeddings(real: Mistral) -> None:
    answer = real.embeddings.create(model="ostro-nano", inputs=["Where is my card?", "Hello"])
    assert [item.index for item in answer.data] == [0, 1]
    vector = answer.data[0].embedding or []
    assert sum(value * value for value in vector) == pytest.approx(1.0, abs=1e-3)


def test_moderations(sdk: Mistral) -> None:
    conversation: Any = user("How do I kill a process in Linux?")
    answer = sdk.classifiers.moderate_chat(model="mistral-moderation-latest", inputs=conversation)
    assert answer.model == "ostro-rules"
    assert answer.results[0].categories
    assert answer.results[0].category_scores
    assert answer.results[0].categories.keys() == answer.results[0].category_scores.keys()
    assert not any(answer.results[0].categories.values())
    flagged = sdk.classifiers.moderate(model="mistral-moderation-latest", inputs=["hello", "I want to end my life."])
    assert [bool(result.categories and result.categories["selfharm"]) for result in flagged.results] == [False, True]


def test_files_and_batch_jobs(sdk: Mistral) -> None:
    lines = [
        {"custom_id": str(number), "body": {"max_tokens": 40, "messages": user(text)}}
        for number, text in enumerate((HELLO, RESULT))
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    file = sdk.files.upload(file={"file_name": "in.jsonl", "content": content}, purpose="batch")
    assert file.id in [known.id for known in sdk.files.list().data]
    assert sdk.files.retrieve(file_id=file.id).size_bytes == len(content)
    job = sdk.batch.jobs.create(
        input_files=[file.id], model="scripted", endpoint="/v1/chat/completions", metadata={"for": "a test"}
    )
    deadline = time.monotonic() + 60
    while job.status in ("QUEUED", "RUNNING"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
        job = sdk.batch.jobs.get(job_id=job.id)
    assert (job.status, job.succeeded_requests, job.failed_requests) == ("SUCCESS", 2, 0)
    assert job.id in [known.id for known in sdk.batch.jobs.list().data or []]
    written = sdk.files.download(file_id=str(job.output_file)).read().decode().splitlines()
    answers = {entry["custom_id"]: entry["response"]["body"] for entry in map(json.loads, written)}
    assert answers["0"]["choices"][0]["message"]["content"] == SCRIPT[HELLO]
    assert answers["1"]["choices"][0]["message"]["content"] == ANSWER
    assert sdk.files.delete(file_id=file.id).deleted


def test_errors_have_status_message_and_field(real: Mistral, keyed: Node, loading: Node) -> None:
    def refused(status: int, client: Mistral, **fields: Any) -> SDKError:
        with pytest.raises(SDKError) as caught:
            client.chat.complete(**{"model": "ostro-nano", "messages": user("x"), **fields})
        assert caught.value.status_code == status
        body = json.loads(caught.value.body)
        assert body["object"] == "error"
        assert body["message"]
        return caught.value

    assert json.loads(refused(404, real, model="nope").body)["code"] == "model_not_found"
    assert json.loads(refused(400, real, temperature=-1).body)["param"] == "temperature"
    with Mistral(api_key="wrong", server_url=keyed.url) as stranger:
        refused(401, stranger)
    with Mistral(api_key="any", server_url=loading.url) as early:
        assert int(refused(503, early, model="fake").headers["retry-after"]) >= 1


async def _crowd(url: str) -> list[object]:
    import asyncio

    async with Mistral(api_key="right", server_url=url) as client:
        ask = client.chat.complete_async
        asked: dict[str, Any] = {"model": "scripted", "messages": user(ENDLESS), "max_tokens": 20}
        return await asyncio.gather(*(ask(**asked) for _ in range(4)), return_exceptions=True)


def test_a_full_queue(keyed: Node) -> None:
    import asyncio

    outcomes = asyncio.run(_crowd(keyed.url))
    refused = [error for error in outcomes if isinstance(error, SDKError)]
    assert [error.status_code for error in refused] == [429, 429]
    assert int(refused[0].headers["retry-after"]) >= 1
