"""Errors as JSON bodies that both vendors' SDKs understand, and the last net under an application.

OpenAI's clients read `error.{message,type,param,code}`, Mistral's read the flat fields beside
`"object": "error"`; one body carries both.
"""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ostro.core.errors import NotReadyError, OstroError

log = logging.getLogger("ostro.web")

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_CODES = {404: "not_found", 405: "method_not_allowed"}


def error_body(error: OstroError) -> dict[str, Any]:
    """The JSON body for an error."""
    fields = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return {"error": fields, "object": "error", **fields}


def error_chunk(error: OstroError) -> dict[str, Any]:
    """The same as the end of a stream, whose status is sent already: with the status that it would have been, and the
    seconds after which another try makes sense, as `Retry-After` would have said them."""
    body = error_body(error)
    told: dict[str, Any] = {"status": error.status}
    seconds = _retry_after(error)
    if seconds is not None:
        told["retry_after"] = seconds
    return {**body, "error": {**body["error"], **told}}


def error_response(error: OstroError) -> Response:
    """The whole answer: 429 and 503 always carry Retry-After, 401 says how to authenticate."""
    headers = {}
    seconds = _retry_after(error)
    if seconds is not None:
        headers["retry-after"] = str(seconds)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.status in (408, 413):
        headers["connection"] = "close"  # The rest of the body is not read.
    content = msgspec.json.encode(error_body(error))
    return Response(content, status_code=error.status, headers=headers, media_type="application/json")


def _retry_after(error: OstroError) -> int | None:
    seconds = getattr(error, "retry_after", None)
    if seconds is None and error.status in (429, 503):
        seconds = 1.0
    return None if seconds is None else max(1, math.ceil(seconds))


async def handle_ostro_error(request: Request, error: Exception) -> Response:
    """For FastAPI's `exception_handlers`."""
    assert isinstance(error, OstroError)
    if error.status >= 500 and not isinstance(error, NotReadyError):  # whoever is not ready has logged why
        log.warning("%s %s: %s", request.method, request.scope["path"], error.message)
    return error_response(error)


async def handle_http_exception(request: Request, error: Exception) -> Response:
    """What the router itself refuses: no such path, no such method."""
    assert isinstance(error, HTTPException)
    translated = OstroError(f"{error.detail}: {request.method} {request.scope['path']}")
    translated.status = error.status_code
    translated.type = "invalid_request_error" if error.status_code < 500 else "server_error"
    translated.code = _CODES.get(error.status_code, HTTPStatus(error.status_code).phrase.lower().replace(" ", "_"))
    response = error_response(translated)
    response.headers.update(error.headers or {})
    if error.status_code == 405:
        response.headers["allow"] = ", ".join(_allowed(request))  # the router names those of the first route only
    return response


def _allowed(request: Request) -> list[str]:
    routes = request.app.router.routes
    return [
        method
        for method in _METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]


class ErrorBoundary:
    """Answers 500 in the common shape for whatever an application did not expect, and logs it.

    The client learns that it happened, not what: a traceback may hold other people's data.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception:  # a defect of ours: the client gets a plain answer, the log the rest
            if started:
                raise
            log.exception("%s %s failed", scope["method"], scope["path"])
            response = error_response(OstroError("The server failed on this request. Its log says why."))
            await response(scope, receive, send)
