"""langchain-openai and langchain-mistralai against live nodes."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import openai
import pytest
from httpx import HTTPStatusError
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_mistralai import ChatMistralAI
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from nodes import Node
from pydantic import BaseModel, ConfigDict, SecretStr
from script import ANSWER, BOTH, HELLO, RESULT, SCRIPT, WEATHER

KINDS = ("openai", "mistral")


def chat(kind: str, node: Node, model: str, key: str = "any", **settings: Any) -> BaseChatModel:
    secret = SecretStr(key)
    if kind == "openai":
        return ChatOpenAI(base_url=node.base, api_key=secret, model=model, max_retries=0, **settings)
    return ChatMistralAI(endpoint=node.base, api_key=secret, model_name=model, max_retries=1, **settings)


@tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    assert city
    return RESULT


@pytest.mark.parametrize("kind", KINDS)
def test_plain_and_streamed_are_the_same_answer(live: Node, kind: str) -> None:
    model = chat(kind, live, "ostro-nano", temperature=0, max_tokens=24)
    whole = model.invoke("Where is my card?")
    assert whole.content
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"]
    assert "".join(str(chunk.content) for chunk in model.stream("Where is my card?")) == whole.content


@pytest.mark.parametrize("kind", KINDS)
def test_tools_over_two_turns(scripted: Node, kind: str) -> None:
    model = chat(kind, scripted, "scripted").bind_tools([get_weather])
    messages: list[Any] = [HumanMessage(WEATHER)]
    first = model.invoke(messages)
    (call,) = first.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    second = model.invoke([*messages, first, result])
    assert second.content == ANSWER


@pytest.mark.parametrize("kind", KINDS)
def test_parallel_calls_streamed(scripted: Node, kind: str) -> None:
    model = chat(kind, scripted, "scripted").bind_tools([get_weather])
    whole: AIMessageChunk | None = None
    for chunk in model.stream(BOTH):
        assert isinstance(chunk, AIMessageChunk)
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == [
        ("get_weather", {"city": "Paris"}),
        ("get_weather", {"city": "Rome"}),
    ]


class Report(BaseModel):
    """How somebody is."""

    model_config = ConfigDict(extra="forbid")

    mood: Literal["good", "bad"]
    score: Literal[1, 2, 3]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(live: Node, kind: str, method: Any) -> None:
    model = chat(kind, live, "ostro-nano", temperature=0, max_tokens=200)
    assert isinstance(model.with_structured_output(Report, method=method).invoke("How are you?"), Report)


@pytest.mark.parametrize("kind", KINDS)
def test_a_forced_call(live: Node, kind: str) -> None:
    # One call: a model that was never taught to call may go on with others until its tokens are spent.
    model = chat(kind, live, "ostro-nano", temperature=0, max_tokens=200).bind_tools(
        [Report], tool_choice="any", parallel_tool_calls=False
    )
    answer = model.invoke("How are you?")
    assert [call["name"] for call in answer.tool_calls] == ["Report"]
    assert not answer.invalid_tool_calls


def test_async_batches(scripted: Node) -> None:
    answers = asyncio.run(chat("openai", scripted, "scripted").abatch([HELLO, RESULT]))
    assert [answer.content for answer in answers] == [SCRIPT[HELLO], ANSWER]


def test_responses_api(scripted: Node) -> None:
    model = chat("openai", scripted, "scripted", use_responses_api=True)
    assert model.invoke(HELLO).text == SCRIPT[HELLO]
    assert "".join(chunk.text for chunk in model.stream(HELLO)) == SCRIPT[HELLO]


def test_embeddings(live: Node) -> None:
    # Its default makes token ids of one vendor's vocabulary out of the texts; a node's models have their own.
    embeddings = OpenAIEmbeddings(
        base_url=live.base, api_key=SecretStr("any"), model="ostro-nano", check_embedding_ctx_length=False
    )
    first, second = embeddings.embed_documents(["Where is my card?", "Hello"])
    assert len(first) == len(second)
    assert embeddings.embed_query("Hello") == pytest.approx(second, abs=1e-5)


def test_errors_become_the_packages_own_classes(live: Node, keyed: Node) -> None:
    with pytest.raises(openai.NotFoundError):
        chat("openai", live, "nope").invoke("x")
    with pytest.raises(openai.AuthenticationError):
        chat("openai", keyed, "scripted", key="wrong").invoke("x")
    with pytest.raises(openai.BadRequestError) as bad:
        chat("openai", live, "ostro-nano", temperature=-1).invoke("x")
    assert bad.value.param == "temperature"
    for node, model, key, status in ((live, "nope", "any", 404), (keyed, "scripted", "wrong", 401)):
        with pytest.raises(HTTPStatusError) as refused:
            chat("mistral", node, model, key=key).invoke("x")
        assert refused.value.response.status_code == status
