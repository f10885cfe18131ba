"""`GET /`: the playground page, and the files that it is made of under `/page/`."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from ostro.web.assets import SHARED, Assets

router = APIRouter(include_in_schema=False)

_ASSETS = Assets([SHARED, Path(__file__).resolve().parent.parent / "page"])

OPEN_PATHS = _ASSETS.paths


@router.get("/")
@router.get("/page/{name}")
async def home(request: Request) -> Response:
    response = _ASSETS.response(request.scope["path"], request.headers.get("if-none-match", ""))
    if response is None:
        raise HTTPException(404)
    return response
