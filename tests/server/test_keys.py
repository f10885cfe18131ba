"""With a key configured, every route wants it but live health and the page's files."""

from __future__ import annotations

import re
import socket

from fastapi.routing import APIRoute
from nodes import Node, running_node
from starlette.routing import Route

from ostro.core.options import EngineOptions
from ostro.link import EngineProcess
from ostro.server import ServedModel, create_app

REFUSED: tuple[dict[str, str], ...] = (
    {},
    {"authorization": "Bearer wrong"},
    {"authorization": "Basic right"},
    {"authorization": "right"},
    {"x-api-key": "wrong"},
    {"x-api-key": ""},
    {"authorization": "Bearer wrong", "x-api-key": "right"},  # one identity, not whichever fits
    {"cookie": "api_key=right"},
)


def _routes() -> list[tuple[str, str]]:
    """Every method and path of the application, as its router knows them."""
    import asyncio

    async def build() -> list[tuple[str, str]]:
        engine = EngineProcess("fake_engine", EngineOptions(model="m", name="m"))
        app = create_app({"m": ServedModel("m", engine, None)})
        found: list[tuple[str, str]] = []
        pending = list(app.routes)
        while pending:
            route = pending.pop()
            inner = getattr(route, "routes", None)
            if inner is None and hasattr(route, "original_router"):
                inner = route.original_router.routes
            if inner is not None:
                pending += inner
            elif isinstance(route, APIRoute | Route):
                found += [(method, route.path) for method in route.methods or ()]
        return found

    return asyncio.run(build())


def test_every_route_wants_the_key() -> None:
    routes = _routes()
    assert {"/", "/metrics", "/health/ready", "/v1/models", "/v1/chat/completions", "/v1/completions"} <= {
        path for _, path in routes
    }
    with running_node(api_keys=["right", "other"]) as node:
        for method, path in [*routes, ("GET", "/nothing"), ("PUT", "/health/live/")]:
            concrete = re.sub(r"\{[^}]+\}", "fake", path)
            for headers in REFUSED:
                response = node.http.request(method, concrete, headers=headers)
                expected = 401
                if concrete in ("/health/live", "/"):
                    expected = 200 if method == "GET" else 405
                assert response.status_code == expected, (method, concrete, headers)
                if expected == 401:
                    assert response.headers["www-authenticate"] == "Bearer"
                    assert response.headers["x-request-id"]
        _assert_tricks_fail(node)
        for key in ("right", "other"):
            for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}):
                assert node.http.get("/v1/models", headers=headers).status_code == 200


def _assert_tricks_fail(node: Node) -> None:
    """Paths and hosts made to look open."""
    for path in (b"/health/live/../../v1/models", b"//health/live", b"/v1/models?/health/live", b"/health/live%00"):
        assert _status(node, path, b"localhost") == 401, path
    assert _status(node, b"/v1/models", b"localhost/health/live?") in (401, 403)
    assert _status(node, b"http://localhost/health/live/../v1/models", b"localhost") == 401


def _status(node: Node, path: bytes, host: bytes) -> int:
    with socket.create_connection(("127.0.0.1", node.port)) as raw:
        raw.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        return int(raw.recv(4096).split()[1])
