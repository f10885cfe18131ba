"""`/v1/batch/jobs`: batches as Mistral has them."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response

from ostro.core.errors import InvalidRequestError
from ostro.server.batch.making import JobSource, cancel_job, find_job, make_job
from ostro.server.context import ServerContext, context_of
from ostro.storage.files import FileRecord, FileStore
from ostro.storage.jobs import Job, JobQuery, Status
from ostro.web.auth import owner_of
from ostro.web.batches import (
    DEFAULT_HOURS,
    BatchJobList,
    BatchJobObject,
    CreateBatchJob,
    Deleted,
    JobsPage,
    MistralStatus,
)
from ostro.web.body import read_json
from ostro.web.openapi import gives, takes

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_INLINE_BYTES = 32 * 1024 * 1024

STATUSES: dict[Status, MistralStatus] = {
    "queued": "QUEUED",
    "running": "RUNNING",
    "cancelling": "CANCELLATION_REQUESTED",
    "succeeded": "SUCCESS",
    "failed": "FAILED",
    "expired": "TIMEOUT_EXCEEDED",
    "cancelled": "CANCELLED",
}

router = APIRouter(prefix="/v1/batch/jobs", tags=["batches"])

Context = Annotated[ServerContext, Depends(context_of)]


@router.post("", openapi_extra=takes(CreateBatchJob), responses=gives(BatchJobObject))
async def create(request: Request) -> Any:
    body = await read_json(request, CreateBatchJob)
    if body.agent_id is not None:
        raise InvalidRequestError("There are no agents here. Name a model.", param="agent_id")
    if bool(body.input_files) is bool(body.requests):
        raise InvalidRequestError("A job takes either input_files or requests.", param="input_files")
    source = JobSource(
        face="mistral",
        endpoint=body.endpoint,
        file_ids=body.input_files or [],
        requests=[request.model_dump() for request in body.requests or []],
        param="requests" if body.requests else "input_files",
    )
    window = f"{body.timeout_hours or DEFAULT_HOURS}h"
    job = await make_job(request, source, model=body.model, metadata=body.metadata, window=window)
    return describe(job)


@router.get("", responses=gives(BatchJobList))
async def list_jobs(request: Request, context: Context, query: Annotated[JobsPage, Query()]) -> Any:
    if query.agent_id is not None:
        return {"object": "list", "data": [], "total": 0}
    wanted = JobQuery(
        owner=owner_of(request.scope),
        statuses=[status for status, name in STATUSES.items() if name in query.status],
        model=query.model,
        metadata={key: str(value) for key, value in (query.model_extra or {}).items()},
        created_after=None if query.created_after is None else _seconds(query.created_after),
        ascending=query.order_by == "created",
        offset=query.page * query.page_size,
        limit=query.page_size,
    )
    jobs, total = await context.batches.jobs.page(wanted)
    return {"object": "list", "data": [describe(job) for job in jobs], "total": total}


@router.get("/{job_id}", responses=gives(BatchJobObject))
async def one_job(job_id: str, request: Request, context: Context, inline: bool | None = None) -> Any:
    owner = owner_of(request.scope)
    job = await find_job(context, job_id, owner)
    record = None
    if inline and job.output_file is not None:
        record = await FileStore(context.database).find(job.output_file, owner)  # none where it was deleted since
    return describe(job) if record is None else await _with_outputs(context, job, record)


@router.post("/{job_id}/cancel", responses=gives(BatchJobObject))
async def cancel(job_id: str, request: Request, context: Context) -> Any:
    return describe(await cancel_job(context, job_id, owner_of(request.scope)))


@router.delete("/{job_id}", responses=gives(Deleted))
async def delete(job_id: str, request: Request, context: Context) -> Any:
    job = await find_job(context, job_id, owner_of(request.scope))
    if not job.finished:
        raise InvalidRequestError(f"The job '{job.id}' is not over. Cancel it first.", param="job_id")
    await context.batches.jobs.delete(job.id)
    return {"id": job.id, "object": "batch", "deleted": True}


def describe(job: Job) -> BatchJobObject:
    return {
        "id": job.id,
        "object": "batch",
        "input_files": job.input_files,
        "endpoint": job.endpoint,
        "model": job.model,
        "agent_id": None,
        "metadata": job.metadata,
        "errors": [] if job.error is None else [{"message": job.error, "count": 1}],
        "status": STATUSES[job.status],
        "created_at": int(job.created_at),
        "started_at": None if job.started_at is None else int(job.started_at),
        "completed_at": None if job.finished_at is None else int(job.finished_at),
        "total_requests": job.total,
        "completed_requests": job.succeeded + job.failed,
        "succeeded_requests": job.succeeded,
        "failed_requests": job.failed,
        "output_file": job.output_file,
        "error_file": job.error_file,
        "outputs": None,
    }


def _seconds(when: datetime) -> float:
    """Since the epoch; a time without a zone is UTC. `datetime.timestamp` fails on the first and last of years."""
    return ((when if when.tzinfo else when.replace(tzinfo=UTC)) - _EPOCH).total_seconds()


async def _with_outputs(context: ServerContext, job: Job, record: FileRecord) -> Response:
    """The job with the lines of its output, put together on a thread."""
    if record.bytes > _MAX_INLINE_BYTES:
        raise InvalidRequestError(
            f"The output is {record.bytes} bytes long, and {_MAX_INLINE_BYTES} fit into an answer. "
            f"Download /v1/files/{record.id}/content.",
            param="inline",
        )
    path = FileStore(context.database).path(record)

    def work() -> bytes:
        outputs = None
        with suppress(FileNotFoundError), path.open("rb") as file:  # deleted in this very moment
            outputs = [msgspec.Raw(line) for line in file]
        return msgspec.json.encode({**describe(job), "outputs": outputs})

    return Response(await context.database.off_loop(work), media_type="application/json")
