"""OpenAI's own package against a gateway: answers, streams, and each refusal as the error that it has for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from running import RunningGateway, node, settings
from stub_node import StubNode

ASK: Any = {"model": "m", "messages": [{"role": "user", "content": "count 12"}]}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with StubNode() as stub, RunningGateway(tmp_path_factory.mktemp("sdk"), settings(node(stub.url))) as running:
        running.wait_for(running.key())
        yield running


def client(gateway: RunningGateway, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0)


def test_answers_and_streams(gateway: RunningGateway) -> None:
    with client(gateway, gateway.key()) as sdk:
        assert sdk.chat.completions.create(**ASK).usage.completion_tokens == 12
        chunks = list(sdk.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
        text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
        assert text == "t " * 12
        assert chunks[-1].usage.completion_tokens == 12
        assert [one.id for one in sdk.models.list()] == ["m"]
        assert sdk.models.retrieve("m").id == "m"
        raw = sdk.chat.completions.with_raw_response.create(**ASK)
        assert raw.headers["x-ostro-cost-usd"] == "0.002"


def test_refusals_are_the_errors_that_it_has_for_them(gateway: RunningGateway) -> None:
    with client(gateway, "nobody's") as sdk, pytest.raises(openai.AuthenticationError):
        sdk.chat.completions.create(**ASK)
    with client(gateway, gateway.key(models=["other"])) as sdk, pytest.raises(openai.PermissionDeniedError):
        sdk.chat.completions.create(**ASK)
    with client(gateway, gateway.key(budget=1)) as sdk, pytest.raises(openai.APIStatusError) as caught:
        sdk.chat.completions.create(**ASK)
    assert (caught.value.status_code, caught.value.code) == (402, "insufficient_quota")
    with client(gateway, gateway.key(requests_per_minute=1)) as sdk:
        sdk.chat.completions.create(**ASK)
        with pytest.raises(openai.RateLimitError) as limited:
            sdk.chat.completions.create(**ASK)
        assert 0 < int(limited.value.response.headers["retry-after"]) <= 61
    with client(gateway, gateway.key()) as sdk:
        with pytest.raises(openai.NotFoundError):
            sdk.chat.completions.create(model="none", messages=[])
        with pytest.raises(openai.InternalServerError):
            sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "html"}])
        with pytest.raises(openai.APIError, match="stub: broke"):
            list(sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "error 2"}], stream=True))
