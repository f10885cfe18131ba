"""`/health/live`: the process answers. `/health/ready`: a request would be answered."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from ostro.server.context import ServerContext, context_of

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live")
async def live() -> dict[str, str]:
    return {"status": "live"}


@router.get("/ready")
async def ready(context: Annotated[ServerContext, Depends(context_of)]) -> dict[str, str]:
    """503 with the reason while a model loads, restarts or does not answer."""
    await context.readiness.check()
    return {"status": "ready"}
