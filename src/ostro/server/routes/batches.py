"""`/v1/batches`: batches as OpenAI has them, over the same jobs as Mistral's."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from ostro.server.batch.making import JobSource, cancel_job, find_job, make_job
from ostro.server.context import ServerContext, context_of
from ostro.storage.jobs import Job, JobQuery, Status
from ostro.web.batches import BatchesPage, CreateBatch
from ostro.web.body import read_json
from ostro.web.openapi import takes

_STATUSES: dict[Status, str] = {
    "queued": "validating",
    "running": "in_progress",
    "cancelling": "cancelling",
    "succeeded": "completed",
    "failed": "failed",
    "expired": "expired",
    "cancelled": "cancelled",
}
_ENDED_AT: dict[Status, str] = {
    "succeeded": "completed_at",
    "failed": "failed_at",
    "expired": "expired_at",
    "cancelled": "cancelled_at",
}

router = APIRouter(prefix="/v1/batches", tags=["batches"])

Context = Annotated[ServerContext, Depends(context_of)]


@router.post("", openapi_extra=takes(CreateBatch))
async def create(request: Request) -> dict[str, Any]:
    body = await read_json(request, CreateBatch)
    source = JobSource(
        face="openai", endpoint=body.endpoint, file_ids=[body.input_file_id], requests=[], param="input_file_id"
    )
    expiry = body.output_expires_after
    job = await make_job(
        request,
        source,
        metadata=body.metadata,
        window=body.completion_window,
        output_expires_s=None if expiry is None else float(expiry.seconds),
    )
    return describe(job)


@router.get("")
async def list_batches(context: Context, query: Annotated[BatchesPage, Query()]) -> dict[str, Any]:
    wanted = JobQuery(after=query.after, limit=query.limit + 1)  # one more tells whether there are more
    jobs, _ = await context.batches.jobs.page(wanted)
    shown = [describe(job) for job in jobs[: query.limit]]
    ids = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {"first_id": None, "last_id": None}
    return {"object": "list", "data": shown, "has_more": len(jobs) > query.limit, **ids}


@router.get("/{batch_id}")
async def one_batch(batch_id: str, context: Context) -> dict[str, Any]:
    return describe(await find_job(context, batch_id))


@router.post("/{batch_id}/cancel")
async def cancel(batch_id: str, context: Context) -> dict[str, Any]:
    return describe(await cancel_job(context, batch_id))


def describe(job: Job) -> dict[str, Any]:
    ended = dict.fromkeys(_ENDED_AT.values())
    if job.finished_at is not None:
        ended[_ENDED_AT[job.status]] = int(job.finished_at)
    error = {"code": "batch_failed", "message": job.error, "line": None, "param": None}
    return {
        "id": job.id,
        "object": "batch",
        "endpoint": job.endpoint,
        "model": job.model,
        "errors": None if job.error is None else {"object": "list", "data": [error]},
        "input_file_id": job.input_files[0] if job.input_files else "",
        "completion_window": job.window,
        "status": _STATUSES[job.status],
        "output_file_id": job.output_file,
        "error_file_id": job.error_file,
        "created_at": int(job.created_at),
        "in_progress_at": None if job.started_at is None else int(job.started_at),
        "expires_at": int(job.deadline),
        "finalizing_at": None,
        "cancelling_at": None if job.cancelling_at is None else int(job.cancelling_at),
        **ended,
        "request_counts": {"total": job.total, "completed": job.succeeded, "failed": job.failed},
        "usage": {
            "input_tokens": job.input_tokens,
            "input_tokens_details": {"cached_tokens": job.cached_tokens},
            "output_tokens": job.output_tokens,
            "output_tokens_details": {"reasoning_tokens": job.reasoning_tokens},
            "total_tokens": job.input_tokens + job.output_tokens,
        },
        "metadata": job.metadata,
    }
