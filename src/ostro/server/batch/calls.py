"""Requests that the program makes of its own application, through every layer that one from outside goes through."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import msgspec
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.routing import Match
from starlette.types import Message, Scope

from ostro.web.auth import IN_PROCESS, OWNER, PRINCIPAL


@dataclass(frozen=True)
class Answer:
    """What came back. body: JSON as it was sent."""

    status: int
    headers: Headers
    body: bytes

    @property
    def fields(self) -> dict[str, Any]:
        """The body where it is a JSON object, else nothing."""
        try:
            decoded = msgspec.json.decode(self.body)
        except msgspec.DecodeError:
            return {}
        return decoded if isinstance(decoded, dict) else {}


def answers_to(app: FastAPI, path: str) -> bool:
    """Whether the application has a POST route of that path."""
    scope = _scope(path, ())
    return any(route.matches(scope)[0] is Match.FULL for route in app.router.routes)


async def post(app: FastAPI, path: str, body: bytes, *, request_id: str, owner: str = "") -> Answer:
    """POST JSON as `IN_PROCESS`, for `owner`. Cancelling it is what a client that leaves is to a server."""
    headers = {
        "host": "localhost",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-request-id": request_id,
    }
    scope = _scope(path, [(name.encode(), value.encode()) for name, value in headers.items()])
    scope[PRINCIPAL] = IN_PROCESS
    scope[OWNER] = owner
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    gone = asyncio.Event()
    status = 500
    answered = Headers()
    pieces: list[bytes] = []

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal status, answered
        if message["type"] == "http.response.start":
            status = message["status"]
            answered = Headers(raw=message.get("headers", []))
        elif message["type"] == "http.response.body":
            pieces.append(message.get("body", b""))

    try:
        await app(scope, receive, send)
    finally:
        gone.set()
    return Answer(status, answered, b"".join(pieces))


def _scope(path: str, headers: Any) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": None,
        "server": None,
    }
