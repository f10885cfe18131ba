"""The mistralai package makes files and batch jobs on a live node."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from mistralai.client import Mistral, models
from mistralai.client.errors import SDKError
from nodes import Node
from script import HELLO

WELCOME = "Hello there, and welcome."


@pytest.fixture
def sdk(scripted: Node) -> Iterator[Mistral]:
    with Mistral(api_key="any", server_url=scripted.url) as client:
        yield client


def body(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": HELLO}], **fields}


def upload(sdk: Mistral, *bodies: dict[str, Any]) -> models.CreateFileResponse:
    lines = "\n".join(json.dumps({"custom_id": str(number), "body": each}) for number, each in enumerate(bodies))
    return sdk.files.upload(file={"file_name": "in.jsonl", "content": lines.encode()}, purpose="batch", expiry=2)


def finished(sdk: Mistral, job: models.BatchJob, **options: Any) -> models.BatchJob:
    deadline = time.monotonic() + 60
    while (found := sdk.batch.jobs.get(job_id=job.id, **options)).status in ("QUEUED", "RUNNING"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_a_file_becomes_answers_and_errors(sdk: Mistral) -> None:
    file = upload(sdk, body(), body(temperature=-1), body())
    assert (file.num_lines, file.sample_type, file.purpose) == (3, "batch_request", "batch")
    assert sdk.files.retrieve(file_id=file.id).size_bytes == file.size_bytes
    job = sdk.batch.jobs.create(
        input_files=[file.id], endpoint="/v1/chat/completions", model="scripted", metadata={"team": "a"}
    )
    done = finished(sdk, job)
    assert (done.status, done.succeeded_requests, done.failed_requests) == ("SUCCESS", 2, 1)
    assert done.output_file
    assert done.error_file
    text = sdk.files.download(file_id=done.output_file).read().decode()
    answers = [json.loads(line) for line in text.splitlines()]
    assert [answer["custom_id"] for answer in answers] == ["0", "2"]
    assert {answer["response"]["body"]["choices"][0]["message"]["content"] for answer in answers} == {WELCOME}
    assert b'"1"' in sdk.files.download(file_id=done.error_file).read()
    assert sdk.files.delete(file_id=file.id).deleted
    assert done.output_file in [each.id for each in sdk.files.list(sample_type=["batch_result"]).data]


def test_requests_inline_and_jobs_in_lists(sdk: Mistral) -> None:
    since = datetime.now(UTC)
    job = sdk.batch.jobs.create(
        requests=[{"custom_id": "a", "body": body()}],
        endpoint="/v1/chat/completions",
        model="scripted",
        metadata={"who": "inline"},
        timeout_hours=1,
    )
    done = finished(sdk, job, inline=True)
    assert done.outputs
    assert done.outputs[0]["response"]["body"]["choices"][0]["message"]["content"] == WELCOME
    listed = sdk.batch.jobs.list(metadata={"who": "inline"}, status=["SUCCESS"], created_after=since)
    assert [each.id for each in listed.data or []] == [job.id]
    assert sdk.batch.jobs.list(metadata={"who": "nobody"}).total == 0
    assert sdk.batch.jobs.delete(job_id=job.id).deleted


def test_refusals(sdk: Mistral) -> None:
    with pytest.raises(SDKError) as missing:
        sdk.batch.jobs.get(job_id="none")
    assert missing.value.status_code == 404
    job = sdk.batch.jobs.create(requests=[{"body": body()}], endpoint="/v1/chat/completions", model="scripted")
    finished(sdk, job)
    with pytest.raises(SDKError) as over:
        sdk.batch.jobs.cancel(job_id=job.id)
    assert over.value.status_code == 400
    file = sdk.files.upload(file={"file_name": "in.jsonl", "content": b'{"custom_id": "a"}'}, purpose="batch")
    with pytest.raises(SDKError, match="line 1"):
        sdk.batch.jobs.create(input_files=[file.id], endpoint="/v1/chat/completions")
    with pytest.raises(SDKError, match="signs no URLs"):
        sdk.files.get_signed_url(file_id=file.id)
