"""Errors as Anthropic's clients read them: everything under /v1/messages that goes wrong, wherever it does."""

from __future__ import annotations

import msgspec
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ostro.core.errors import OstroError
from ostro.web.errors import error_body
from ostro.web.openapi import ErrorBody, ErrorFields

_PATH = "/v1/messages"
_HEADER = "request-id"

# Statuses that are not listed are invalid requests below 500 and the server's own fault from there on.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class MessageErrorFields(msgspec.Struct, frozen=True):
    """type: such as "invalid_request_error", "rate_limit_error", "api_error". message: names the field."""

    type: str
    message: str


class MessageError(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    """Every error of `/v1/messages`; in a stream the data of an `error` event."""

    error: MessageErrorFields
    request_id: str


def message_error(error: OstroError, request_id: str) -> MessageError:
    """For what ends a stream that has begun."""
    fields = msgspec.convert(error_body(error), ErrorBody).error
    return _recast(error.status, fields, request_id)


class MessageErrors:
    """Plain ASGI, outside of everything that refuses. Recasts errors under /v1/messages, whoever answered them, and
    gives every answer there Anthropic's header of the request's id.

    The id must be in the scope already (`RequestId`).
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        here = scope["type"] == "http" and (scope["path"] == _PATH or scope["path"].startswith(f"{_PATH}/"))
        await self.app(scope, receive, _Recasting(scope["state"]["request_id"], send) if here else send)


class _Recasting:
    """The way of one answer out. An error is held until its body is whole."""

    def __init__(self, request_id: str, send: Send) -> None:
        self._request_id = request_id
        self._send = send
        self._held: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers[_HEADER] = self._request_id
            if message["status"] >= 400 and headers.get("content-type") == "application/json":
                self._held = message
                return
        elif self._held is not None:
            self._body += message.get("body", b"")
            if message.get("more_body"):
                return
            message = {"type": "http.response.body", "body": await self._begin(self._held)}
        await self._send(message)

    async def _begin(self, start: Message) -> bytes:
        """Send the held beginning; the body that belongs to it. HEAD has none."""
        body = self._body
        if body:
            fields = msgspec.json.decode(body, type=ErrorBody).error
            body = msgspec.json.encode(_recast(start["status"], fields, self._request_id))
            MutableHeaders(scope=start)["content-length"] = str(len(body))
        await self._send(start)
        return body


def _recast(status: int, fields: ErrorFields, request_id: str) -> MessageError:
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    unnamed = fields.param is not None and fields.param not in fields.message
    message = f"{fields.param}: {fields.message}" if unnamed else fields.message
    return MessageError(MessageErrorFields(kind, message), request_id)
