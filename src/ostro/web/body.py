"""Request bodies: bounded in size, then validated into a wire type."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import TypeVar, cast

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ostro.core.errors import InvalidRequestError
from ostro.web.errors import error_response
from ostro.web.images import MAX_IMAGE_BYTES, refuse_large_images

MAX_BODY_BYTES = 16 * 1024 * 1024
BODY_S = 30.0
# Objects and lists in a body. Millions of them take seconds to read, in which nobody else is served.
MAX_CONTAINERS = 100_000
# Never goes back, and takes a string that does not end too: the time it needs is in proportion to the body.
_JSON_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_SLOWEST_BYTES_S = 1024
_DISCARD_FACTOR = 4
_DISCARD_S = 5.0

Wire = TypeVar("Wire", bound=BaseModel)


class BodyTooLargeError(InvalidRequestError):
    """More bytes than the server reads."""

    status = 413
    code = "request_too_large"


class UnsupportedMediaTypeError(InvalidRequestError):
    """A body that does not say it is JSON."""

    status = 415
    code = "unsupported_media_type"


class BodyTooSlowError(InvalidRequestError):
    """A body that does not come."""

    status = 408
    code = "request_timeout"


class BodyLimit:
    """Plain ASGI. Reads the body up to `limit` bytes before the application runs; more is answered with 413.

    Bodies are validated whole anyway, so nothing is lost by reading first, and chunked ones are bounded too.
    timeout_s: a body that has not come by then, and a second later for each KiB of it that has, is answered 408.
    uploads: (method, path) of routes that read their own bodies as they come, with the limit of each in bytes.
    image_limit: most bytes of one image in a JSON body, for `read_json` to look at.
    """

    def __init__(
        self,
        app: ASGIApp,
        limit: int = MAX_BODY_BYTES,
        timeout_s: float = BODY_S,
        uploads: Mapping[tuple[str, str], int] | None = None,
        image_limit: int = MAX_IMAGE_BYTES,
    ) -> None:
        self.app = app
        self.image_limit = image_limit
        self.limit = limit
        self.timeout_s = timeout_s
        self.uploads = uploads or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope.setdefault("state", {})["image_limit"] = self.image_limit
        length = _declared(scope)
        upload = self.uploads.get((scope["method"], scope["path"]))
        if upload is not None and length <= upload:
            await self.app(scope, self._counted(receive, upload), send)
            return
        limit = self.limit if upload is None else upload
        messages: list[Message] = []
        received = 0
        more = True
        started = asyncio.get_running_loop().time()
        while more and length <= limit:
            try:
                message = await self._in_time(receive, started, received)
            except BodyTooSlowError as error:
                await error_response(error)(scope, receive, send)
                return
            if message["type"] == "http.disconnect":
                return  # Gone in the middle of its own request: nobody is left to answer.
            messages.append(message)
            received += len(message.get("body", b""))
            length = max(length, received)
            more = message.get("more_body", False)
        if length > limit:
            if more and length <= _DISCARD_FACTOR * limit:
                await _discard(receive, (_DISCARD_FACTOR * limit) - received)
            await error_response(_too_large(limit, upload is not None))(scope, receive, send)
            return
        messages.reverse()

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self.app(scope, replay, send)

    async def _in_time(self, receive: Receive, started: float, received: int) -> Message:
        try:
            async with asyncio.timeout_at(started + self.timeout_s + received / _SLOWEST_BYTES_S):
                return await receive()
        except TimeoutError:
            raise BodyTooSlowError(f"Of the request's body only {received} bytes came. Send it again.") from None

    def _counted(self, receive: Receive, limit: int) -> Receive:
        """The body as it comes; the route that reads it is the one that is told of too much and of too slow."""
        started = asyncio.get_running_loop().time()
        received = 0
        more = True

        async def counted() -> Message:
            nonlocal received, more
            if not more:
                return await receive()  # waits for the client to leave, for however long that takes
            message = await self._in_time(receive, started, received)
            received += len(message.get("body", b""))
            more = message["type"] == "http.request" and message.get("more_body", False)
            if received > limit:
                if more:
                    await _discard(receive, (_DISCARD_FACTOR - 1) * limit)
                raise _too_large(limit, True)
            return message

        return counted


def _declared(scope: Scope) -> int:
    length = Headers(scope=scope).get("content-length", "")
    return int(length) if length.isdecimal() else 0


def _too_large(limit: int, upload: bool) -> BodyTooLargeError:
    param = "file" if upload else None
    return BodyTooLargeError(f"The request body is over the limit of {limit} bytes.", param=param)


async def _discard(receive: Receive, most: int) -> None:
    """Take in what a client is still sending: a connection closed under it would hide the answer from it."""
    try:
        async with asyncio.timeout(_DISCARD_S):
            while most > 0:
                message = await receive()
                most -= len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


async def read_json(request: Request, kind: type[Wire]) -> Wire:
    """The body as a wire type. Raises InvalidRequestError with the field in `param`, or the reason in the JSON.

    A body must say that it is JSON: a browser lets any page send text/plain or forms across origins, but not JSON.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json" and not (media.startswith("application/") and media.endswith("+json")):
        raise UnsupportedMediaTypeError(
            f"The body must be JSON with the header 'Content-Type: application/json', not '{media or 'none'}'."
        )
    body = await request.body()
    _refuse_crowds(body)
    refuse_large_images(body, getattr(request.state, "image_limit", MAX_IMAGE_BYTES))
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise invalid_field(error) from None


def invalid_field(error: ValidationError) -> InvalidRequestError:
    """What pydantic found wrong first, naming the field."""
    errors = error.errors(include_url=False, include_context=False)
    # Of the types that a field may have, the one that has only become too long is the one that was meant.
    return _translate(next((one for one in errors if one["type"] == "too_long"), errors[0]))


def _refuse_crowds(body: bytes) -> None:
    """Raises InvalidRequestError for more objects and lists than any request needs. Brackets in texts do not count."""
    if _count_containers(body) <= MAX_CONTAINERS or _count_containers(_JSON_STRING.sub(b"", body)) <= MAX_CONTAINERS:
        return
    raise InvalidRequestError(
        f"The body holds more than {MAX_CONTAINERS} objects and lists. Send fewer.", code="invalid_json"
    )


def _count_containers(body: bytes) -> int:
    return body.count(b"[") + body.count(b"{")


async def handle_bad_parameter(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette's interface
    """For FastAPI's `exception_handlers`: what it finds wrong in a path or a query itself."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    without_place = cast(ErrorDetails, {**first, "loc": first["loc"][1:]})  # no "query" or "path" before the name
    return error_response(_translate(without_place))


def _translate(first: ErrorDetails) -> InvalidRequestError:
    if first["type"] == "json_invalid":
        return InvalidRequestError(f"The body is not valid JSON: {first['msg']}.", code="invalid_json")
    param = _path(first)
    where = f"'{param}': " if param else ""
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    return InvalidRequestError(f"{where}{first['msg']}{_shown(first)}", param=param, code=code)


def _path(detail: ErrorDetails) -> str | None:
    """`messages[0].role` from ("messages", 0, "role"); names of union members that pydantic adds are left out."""
    path = ""
    for part in detail["loc"]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif re.fullmatch(r"[a-z_]+", part) and part not in {"str", "int", "float", "bool"}:
            path += f".{part}" if path else part
    return path or None


def _shown(detail: ErrorDetails) -> str:
    """The offending value, where it is short enough to help."""
    value = repr(detail["input"])
    return f", not {value}." if detail["type"] != "missing" and len(value) <= 60 else "."
