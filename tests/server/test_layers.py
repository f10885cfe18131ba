"""The ASGI layers on their own: what happens when an application does what it should not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from ostro.web.auth import ApiKeyGate
from ostro.web.body import BodyLimit
from ostro.web.errors import ErrorBoundary
from ostro.web.request_id import RequestId
from ostro.web.sse import EventStreamResponse, sse_data


def _get(app: ASGIApp, method: str = "GET", **request: Any) -> httpx2.Response:
    async def call() -> httpx2.Response:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, "/", **request)

    return asyncio.run(call())


async def _fails(request: Request) -> PlainTextResponse:
    raise RuntimeError("a secret")


async def _echoes(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await request.body())


def test_the_unexpected_is_500_with_an_id_and_without_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("a secret")

    response = _get(RequestId(ErrorBoundary(failing)), headers={"x-request-id": "mine"})
    assert response.status_code == 500
    assert response.headers["x-request-id"] == "mine"
    assert response.json()["error"]["code"] == "internal_error"
    assert "secret" not in response.text
    assert "secret" in caplog.text


def test_a_body_at_the_limit_arrives_whole_and_one_byte_more_does_not() -> None:
    app = BodyLimit(Starlette(routes=[Route("/", _echoes, methods=["POST"])]), limit=1000)
    assert _get(app, "POST", content=b"x" * 1000).content == b"x" * 1000
    assert _get(app, "POST", content=b"x" * 1001).status_code == 413

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"y" * 100

    assert _get(app, "POST", content=pieces()).status_code == 413


def test_without_keys_everybody_passes_and_with_any_nobody_without() -> None:
    inner = Starlette(routes=[Route("/", _echoes)])
    assert _get(ApiKeyGate(inner)).status_code == 200
    gate = ApiKeyGate(inner, ["é"])
    assert _get(gate).status_code == 401
    assert _get(gate, headers={"authorization": "Bearer "}).status_code == 401
    assert _get(gate, headers={"authorization": "bearer  k "}).status_code == 401


def test_websockets_need_a_key_too() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it got through")

    scope = {"type": "websocket", "path": "/v1/realtime", "headers": []}
    asyncio.run(ApiKeyGate(inner, ["k"])(scope, send, send))  # type: ignore[arg-type]  # a stand-in
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_a_stream_beats_while_it_is_silent_and_closes_once() -> None:
    closed: list[bool] = []

    async def frames() -> AsyncIterator[bytes]:
        yield sse_data({"text": "line\nbreak"})
        await asyncio.sleep(0.25)
        yield sse_data(2)

    async def endpoint(request: Request) -> EventStreamResponse:
        return EventStreamResponse(frames(), close=lambda: closed.append(True), heartbeat_s=0.1)

    # httpx2's ASGI transport gathers the whole body, which is all this needs.
    response = _get(Starlette(routes=[Route("/", endpoint)]))
    first, *middle, last = response.text.strip().split("\n\n")
    assert first == 'data: {"text":"line\\nbreak"}'
    assert last == "data: 2"
    assert middle
    assert set(middle) == {": keep-alive"}
    assert closed == [True]
    assert response.headers["content-type"].startswith("text/event-stream")
