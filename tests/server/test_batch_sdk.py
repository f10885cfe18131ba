"""OpenAI's package makes files and batches on a live node."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest
from batching import chat_line, jsonl, token_line
from fake_engine import STUCK
from nodes import Node, running_node, until
from openai import OpenAI
from openai.types import Batch


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with running_node(api_keys=["k"]) as running:
        yield running


@pytest.fixture
def client(node: Node) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{node.url}/v1", api_key="k", max_retries=0) as made:
        yield made


def lines(*texts: str, url: str = "/v1/chat/completions") -> bytes:
    return jsonl({**chat_line(text, text), "method": "POST", "url": url} for text in texts)


def made(client: OpenAI, data: bytes, endpoint: str = "/v1/chat/completions") -> Batch:
    file = client.files.create(file=("in.jsonl", data), purpose="batch")
    return client.batches.create(
        input_file_id=file.id,
        endpoint=endpoint,  # type: ignore[arg-type]  # a stand-in
        completion_window="24h",
        metadata={"who": "me"},
    )


def finished(client: OpenAI, batch: Batch) -> Batch:
    until(lambda: client.batches.retrieve(batch.id).status in ("completed", "cancelled"))
    return client.batches.retrieve(batch.id)


def test_files_and_batches_there_and_back(client: OpenAI) -> None:
    batch = made(
        client,
        lines("abcd", "efgh")
        + jsonl([{**chat_line("bad", "x", n=-1), "method": "POST", "url": "/v1/chat/completions"}]),
    )
    assert (batch.object, batch.completion_window, batch.metadata) == ("batch", "24h", {"who": "me"})
    assert batch.status in ("validating", "in_progress")
    done = finished(client, batch)
    assert done.request_counts is not None
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (3, 2, 1)
    assert done.completed_at is not None
    assert done.output_file_id is not None
    assert done.error_file_id is not None
    assert done.usage is not None
    assert (done.usage.output_tokens, done.usage.total_tokens) == (10, 20)
    answers = [json.loads(line) for line in client.files.content(done.output_file_id).text.splitlines()]
    assert [answer["custom_id"] for answer in answers] == ["abcd", "efgh"]
    assert [answer["response"]["body"]["choices"][0]["message"]["content"] for answer in answers] == ["abcd", "efgh"]
    (error,) = [json.loads(line) for line in client.files.content(done.error_file_id).text.splitlines()]
    assert error["response"]["status_code"] == 400
    assert client.files.retrieve(done.output_file_id).purpose == "batch_output"
    assert client.files.delete(done.output_file_id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(done.output_file_id)


def test_lists_go_on_over_pages(client: OpenAI) -> None:
    batches = [made(client, lines("abcd")) for _ in range(3)]
    for batch in batches:
        finished(client, batch)
    assert [batch.id for batch in client.batches.list(limit=2)][:3] == [batch.id for batch in batches[::-1]]
    files = [batch.input_file_id for batch in batches]
    assert [file.id for file in client.files.list(limit=2) if file.id in files] == files[::-1]


def test_a_batch_is_cancelled(client: OpenAI) -> None:
    stuck = {**token_line("stuck", STUCK), "method": "POST", "url": "/v1/completions"}
    batch = made(client, jsonl([stuck]), "/v1/completions")
    until(lambda: client.batches.retrieve(batch.id).status == "in_progress")
    assert client.batches.cancel(batch.id).status == "cancelling"
    done = finished(client, batch)
    assert (done.status, done.output_file_id) == ("cancelled", None)
    assert done.cancelled_at is not None


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (jsonl([chat_line("a", "x")]), "missing_required_parameter"),
        (lines("a", url="/v1/embeddings"), "invalid_url"),
        (jsonl([{"method": "POST", "url": "/v1/chat/completions", "body": {}}]), "missing_required_parameter"),
    ],
)
def test_lines_must_say_all_that_openai_wants(client: OpenAI, data: bytes, code: str) -> None:
    with pytest.raises(openai.BadRequestError, match="line 1") as caught:
        made(client, data)
    assert (caught.value.code, caught.value.param) == (code, "input_file_id")


def test_what_is_not_there_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch-none")
    with pytest.raises(openai.NotFoundError):
        client.files.content("file-none")
