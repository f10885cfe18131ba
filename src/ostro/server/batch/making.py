"""From what a client asks for to a job in the store, the same for both APIs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request

from ostro.core.errors import InvalidRequestError
from ostro.core.ids import new_id
from ostro.server.batch.calls import answers_to
from ostro.server.batch.lines import check
from ostro.server.context import ServerContext, context_of
from ostro.server.stored_files import find_file
from ostro.storage.files import FileStore
from ostro.storage.jobs import Face, Job
from ostro.web.auth import owner_of

ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/fim/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/moderations",
    "/v1/chat/moderations",
)

_OVER = {"succeeded": "succeeded", "failed": "failed", "expired": "ran out of time"}


class JobNotFoundError(InvalidRequestError):
    """No such job, or another key's."""

    status = 404
    code = "batch_not_found"


@dataclass(frozen=True, kw_only=True)
class JobSource:
    """Where a job's requests come from: files of the store, or the request that makes the job.

    param: the field that errors name.
    """

    face: Face
    endpoint: str
    file_ids: Sequence[str]
    requests: Sequence[dict[str, Any]]
    param: str


async def make_job(
    request: Request,
    source: JobSource,
    *,
    window: str,
    model: str | None = None,
    metadata: dict[str, Any] | None = None,
    output_expires_s: float | None = None,
) -> Job:
    """Check everything, keep the input, queue the job. window: such as 24h.

    Raises InvalidRequestError, with the line's number where a line is at fault, FileNotFoundHereError,
    ModelNotFoundError.
    """
    context = context_of(request)
    there = [path for path in ENDPOINTS if answers_to(request.app, path)]
    if source.endpoint not in there:
        raise InvalidRequestError(
            f"endpoint must be one of {', '.join(there)}, not {source.endpoint[:100]!r}.", param="endpoint"
        )
    if model is not None:
        context.models.find(model)
    job_id = new_id("batch")
    owner = owner_of(request.scope)
    total = await _keep_input(context, job_id, source, owner)
    now = time.time()
    job = Job(
        id=job_id,
        face=source.face,
        endpoint=source.endpoint,
        model=model,
        input_files=list(source.file_ids),
        metadata=metadata,
        window=window,
        created_at=now,
        deadline=now + int(window.removesuffix("h")) * 3600,
        total=total,
        output_expires_s=output_expires_s,
        owner=owner,
    )
    try:
        await context.batches.jobs.add(job)
    except BaseException:  # cancelled or failed: no half a job stays
        context.batches.spool.remove(job_id)
        raise
    context.batches.wake()
    return job


async def find_job(context: ServerContext, job_id: str, owner: str) -> Job:
    """Raises JobNotFoundError."""
    job = await context.batches.jobs.find(job_id, owner)
    if job is None:
        raise JobNotFoundError(f"There is no batch '{job_id[:100]}' here.", param="job_id")
    return job


async def cancel_job(context: ServerContext, job_id: str, owner: str) -> Job:
    """Ask for an end; asking twice is no fault. Raises JobNotFoundError, InvalidRequestError for one that is over."""
    job = await find_job(context, job_id, owner)
    if job.finished and job.status != "cancelled":
        raise InvalidRequestError(f"The batch '{job.id}' is over: it {_OVER[job.status]}.", param="job_id")
    job = await context.batches.jobs.cancel(job_id) or job
    if job.finished:
        await context.database.off_loop(lambda: context.batches.spool.remove(job_id))
    context.batches.wake()
    return job


async def _keep_input(context: ServerContext, job_id: str, source: JobSource, owner: str) -> int:
    """Check the requests and copy them for the job; returns how many there are."""
    store = FileStore(context.database)
    spool = context.batches.spool
    records = [await find_file(context, file_id, owner, param=source.param) for file_id in source.file_ids]
    paths = [store.path(record) for record in records]

    def work() -> int:
        if paths:
            spool.keep_files(job_id, paths)
            names = [record.filename for record in records]
        else:
            spool.keep_requests(job_id, source.requests)
            names = ["requests"]
        kept: list[tuple[str, Path]] = list(zip(names, spool.paths(job_id), strict=True))
        strict = source.face == "openai"
        return check(kept, endpoint=source.endpoint, strict=strict, param=source.param)

    try:
        async with context.batches.checking:
            return await context.database.off_loop(work)
    except BaseException:  # cancelled or failed: no half a job stays
        spool.remove(job_id)
        raise
