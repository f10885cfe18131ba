"""`/v1/batches`: batches as OpenAI has them, over the same jobs as Mistral's."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from ostro.server.batch.making import JobSource, cancel_job, find_job, make_job
from ostro.server.context import ServerContext, context_of
from ostro.storage.jobs import Job, JobQuery, Status
from ostro.web.auth import owner_of
from ostro.web.batches import BatchError, BatchesPage, BatchList, BatchObject, CreateBatch
from ostro.web.body import read_json
from ostro.web.openapi import gives, takes

_STATUSES: dict[Status, str] = {
    "queued": "validating",
    "running": "in_progress",
    "cancelling": "cancelling",
    "succeeded": "completed",
    "failed": "failed",
    "expired": "expired",
    "cancelled": "cancelled",
}
router = APIRouter(prefix="/v1/batches", tags=["batches"])

Context = Annotated[ServerContext, Depends(context_of)]


@router.post("", openapi_extra=takes(CreateBatch), responses=gives(BatchObject))
async def create(request: Request) -> Any:
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


@router.get("", responses=gives(BatchList))
async def list_batches(request: Request, context: Context, query: Annotated[BatchesPage, Query()]) -> Any:
    # One more tells whether there are more.
    wanted = JobQuery(owner=owner_of(request.scope), after=query.after, limit=query.limit + 1)
    jobs, _ = await context.batches.jobs.page(wanted)
    shown = [describe(job) for job in jobs[: query.limit]]
    ids = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {"first_id": None, "last_id": None}
    return {"object": "list", "data": shown, "has_more": len(jobs) > query.limit, **ids}


@router.get("/{batch_id}", responses=gives(BatchObject))
async def one_batch(batch_id: str, request: Request, context: Context) -> Any:
    return describe(await find_job(context, batch_id, owner_of(request.scope)))


@router.post("/{batch_id}/cancel", responses=gives(BatchObject))
async def cancel(batch_id: str, request: Request, context: Context) -> Any:
    return describe(await cancel_job(context, batch_id, owner_of(request.scope)))


def describe(job: Job) -> BatchObject:
    error: BatchError = {"code": "batch_failed", "message": job.error or "", "line": None, "param": None}
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
        "in_progress_at": _whole(job.started_at),
        "expires_at": int(job.deadline),
        "finalizing_at": None,
        "cancelling_at": _whole(job.cancelling_at),
        "completed_at": _whole(job.finished_at, job.status == "succeeded"),
        "failed_at": _whole(job.finished_at, job.status == "failed"),
        "expired_at": _whole(job.finished_at, job.status == "expired"),
        "cancelled_at": _whole(job.finished_at, job.status == "cancelled"),
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


def _whole(when: float | None, is_so: bool = True) -> int | None:
    """A time in whole seconds, where it is one of this kind."""
    return int(when) if when is not None and is_so else None
