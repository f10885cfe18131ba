"""The real openai package against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import openai
import pytest
from fake_engine import CRASH, SLOW, STUCK
from nodes import Node, running_node

MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def sdk(node: Node) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{node.url}/v1", api_key="k", max_retries=0) as client:
        yield client


def test_chat(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model="fake", messages=MESSAGES, max_completion_tokens=6, seed=0, logprobs=True, top_logprobs=2
    )
    assert answer.choices[0].message.content == "hello"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 3
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [entry.token for entry in logprobs.content[1:]] == list("hello")
    assert len(logprobs.content[1].top_logprobs) == 2


def test_streamed_chat(sdk: openai.OpenAI) -> None:
    stream = sdk.chat.completions.create(
        model="fake",
        messages=MESSAGES,
        max_tokens=6,
        seed=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": True},
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "hello"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 12


def test_the_sdks_own_stream_helper(sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.stream(model="fake", messages=MESSAGES, stop="o", seed=0) as stream:
        assert any(event.type == "content.delta" for event in stream)
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "hell"


def test_completions(sdk: openai.OpenAI) -> None:
    answer = sdk.completions.create(model="fake", prompt=[[65, 66], [67]], max_tokens=2, logprobs=1, seed=0)
    assert [choice.text for choice in answer.choices] == ["AB", "CC"]
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.tokens == ["A", "B"]
    stream = sdk.completions.create(model="fake", prompt="hey", max_tokens=4, stream=True, echo=True, seed=0)
    assert "".join(chunk.choices[0].text for chunk in stream) == "heyhey"


def test_models(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["fake"]
    assert sdk.models.retrieve("fake").owned_by == "ostro"


def test_errors_become_the_sdks_own_classes(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.chat.completions.create(model="nope", messages=MESSAGES)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.chat.completions.create(model="fake", messages=MESSAGES, temperature=-1)
    assert bad.value.param == "temperature"
    assert bad.value.type == "invalid_request_error"
    assert bad.value.request_id
    with pytest.raises(openai.BadRequestError) as long:
        sdk.completions.create(model="fake", prompt=[65] * 30_000)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.InternalServerError) as late:
        sdk.completions.create(model="fake", prompt=[STUCK], extra_body={"timeout": 0.1})
    assert late.value.status_code == 504


def test_an_error_in_mid_stream_is_raised(sdk: openai.OpenAI) -> None:
    stream = sdk.completions.create(
        model="fake", prompt=[SLOW, 65], max_tokens=400, stream=True, extra_body={"timeout": 1.5}
    )
    with pytest.raises(openai.APIError, match="deadline"):
        list(stream)


def test_a_full_queue_and_a_wrong_key() -> None:
    with running_node(options={"max_num_seqs": 1, "max_waiting": 1}, api_keys=["right"]) as small:
        with openai.OpenAI(base_url=f"{small.url}/v1", api_key="wrong", max_retries=0) as stranger:
            with pytest.raises(openai.AuthenticationError) as refused:
                stranger.models.list()
            assert refused.value.code == "invalid_api_key"
        asyncio.run(_crowd(small.url))


async def _crowd(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="right", max_retries=0) as client:

        async def ask() -> object:
            try:
                await client.completions.create(model="fake", prompt=[SLOW, 65], max_tokens=10)
            except openai.RateLimitError as error:
                return error.response.headers["retry-after"]
            return "answered"

        outcomes = await asyncio.gather(*(ask() for _ in range(5)))
        assert sorted(map(str, outcomes)) == ["3"] * 3 + ["answered"] * 2


def test_a_dead_engine_is_a_server_error_and_the_sdk_retries_into_the_next_one() -> None:
    with running_node() as mortal, openai.OpenAI(base_url=f"{mortal.url}/v1", api_key="k", max_retries=0) as client:
        with pytest.raises(openai.InternalServerError) as dead:
            client.completions.create(model="fake", prompt=[CRASH])
        assert dead.value.code == "engine_dead"
        again = client.with_options(max_retries=4).completions.create(model="fake", prompt=[65], max_tokens=2, seed=0)
        assert again.choices[0].text == "AA"
