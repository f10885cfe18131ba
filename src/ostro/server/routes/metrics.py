"""`GET /metrics`, for Prometheus."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from ostro.observability.metrics import CONTENT_TYPE
from ostro.server.context import ServerContext, context_of
from ostro.web.openapi import gives

router = APIRouter(tags=["metrics"])


@router.get("/metrics", response_class=Response, responses=gives("text/plain"))
def metrics(context: Annotated[ServerContext, Depends(context_of)]) -> Response:
    """In a thread: a driver may take its time to tell how its accelerator is."""
    return Response(context.metrics.exposition(), headers={"content-type": CONTENT_TYPE})
