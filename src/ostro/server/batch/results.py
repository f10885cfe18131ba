"""What a job's requests came to: lines of its output and error files."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from ostro.core.ids import new_id
from ostro.server.batch.calls import Answer
from ostro.server.batch.lines import RequestLine, Spool, read_requests
from ostro.storage.files import FileRecord, FileStore, FileWriter
from ostro.storage.jobs import Job, JobStore, Line, Status

_PAGE = 500

_EXPIRED = ("batch_expired", "The job's time was over before this request was done.")


class _Response(msgspec.Struct):
    status_code: int
    request_id: str
    body: msgspec.Raw


class _Error(msgspec.Struct):
    code: str
    message: str


class _Result(msgspec.Struct):
    """A line of an output or error file; Mistral and OpenAI have the same."""

    id: str
    custom_id: str | None
    response: _Response | None
    error: _Error | None


def line_of(number: int, request: RequestLine, answer: Answer) -> Line:
    """What is recorded of an answered request: an answer that is no success goes to the error file."""
    fields = answer.fields
    # Encoded again, because whoever wrote the body may have broken it into lines.
    body = msgspec.Raw(msgspec.json.encode(fields or {"text": answer.body.decode(errors="replace")}))
    response = _Response(answer.status, answer.headers.get("x-request-id", ""), body)
    result = _Result(new_id("batch_req"), request.custom_id, response, None)
    succeeded = 200 <= answer.status < 300
    tokens = _tokens(fields.get("usage")) if succeeded else {}
    return Line(number=number, succeeded=succeeded, text=msgspec.json.encode(result).decode(), tokens=tokens)


def refused_line(number: int, request: RequestLine, code: str, message: str) -> Line:
    """What is recorded of a request that was not even tried."""
    result = _Result(new_id("batch_req"), request.custom_id, None, _Error(code, message))
    return Line(number=number, succeeded=False, text=msgspec.json.encode(result).decode(), tokens={})


def _tokens(usage: Any) -> dict[str, int]:
    """By the names that a job counts them under, from those of either kind of answer."""
    if not isinstance(usage, dict):
        return {}
    given, made = ("input", "output") if "input_tokens" in usage else ("prompt", "completion")
    return {
        "input_tokens": usage.get(f"{given}_tokens") or 0,
        "cached_tokens": (usage.get(f"{given}_tokens_details") or {}).get("cached_tokens") or 0,
        "output_tokens": usage.get(f"{made}_tokens") or 0,
        "reasoning_tokens": (usage.get(f"{made}_tokens_details") or {}).get("reasoning_tokens") or 0,
    }


def finish(
    jobs: JobStore,
    files: FileStore,
    spool: Spool,
    job: Job,
    owner: str,
    status: Status,
    *,
    error: str | None = None,
) -> None:
    """Write the job's files, in the order of its requests, and end it. Blocking.

    Raises LeaseLostError, StorageError; then nothing has changed.
    """
    writers = (files.writer(), files.writer())
    placed: list[FileRecord] = []
    try:
        _write(jobs, spool, job, status, *writers)
        for writer, kind in zip(writers, ("result", "error"), strict=True):
            if writer.bytes:
                placed.append(_place(files, writer, job, kind))
        by_kind = {record.sample_type: record for record in placed}
        output, errors = by_kind.get("batch_result"), by_kind.get("batch_error")
        jobs.finish_now(job.id, owner, status, output=output, errors=errors, error=error)
    except BaseException:  # cancelled or failed: no file without a record stays
        for record in placed:
            files.path(record).unlink(missing_ok=True)
        raise
    finally:
        for writer in writers:
            writer.discard()
    spool.remove(job.id)


def _place(files: FileStore, writer: FileWriter, job: Job, kind: str) -> FileRecord:
    return files.place_now(
        writer,
        filename=f"{job.id}-{kind}s.jsonl",
        purpose="batch_output" if job.face == "openai" else "batch",
        sample_type=f"batch_{kind}",
        source="mistral",
        mimetype="application/jsonl",
        expires_at=None if job.output_expires_s is None else time.time() + job.output_expires_s,
        owner=job.owner,
    )


def _write(jobs: JobStore, spool: Spool, job: Job, status: Status, output: FileWriter, errors: FileWriter) -> None:
    done: set[int] = set()
    page = jobs.lines_now(job.id, -1, _PAGE)
    while page:
        for line in page:
            done.add(line.number)
            (output if line.succeeded else errors).write(line.text.encode() + b"\n")
        page = jobs.lines_now(job.id, page[-1].number, _PAGE)
    if status == "expired":
        for number, request in enumerate(read_requests(spool.paths(job.id))):
            if number not in done:
                errors.write(refused_line(number, request, *_EXPIRED).text.encode() + b"\n")
