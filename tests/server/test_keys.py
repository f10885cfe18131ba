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


def test_a_gateway_says_whose_a_request_is_and_nobody_else_may() -> None:
    """What one tenant stores another does not find, though both come with the gateway's key."""
    with running_node(api_keys=["plain"], gateway_keys=["gateway"]) as node:

        def files(key: str, tenant: str | None) -> list[str]:
            headers = {"authorization": f"Bearer {key}"} | ({} if tenant is None else {"x-ostro-tenant": tenant})
            listed = node.http.get("/v1/files", headers=headers)
            assert listed.status_code == 200
            return [one["filename"] for one in listed.json()["data"]]

        def upload(key: str, tenant: str | None, name: str) -> None:
            headers = {"authorization": f"Bearer {key}"} | ({} if tenant is None else {"x-ostro-tenant": tenant})
            form = {"file": (name, b"{}"), "purpose": (None, "batch")}
            assert node.http.post("/v1/files", headers=headers, files=form).status_code == 200

        upload("gateway", "acme", "of acme")
        upload("gateway", "other", "of other")
        upload("plain", "acme", "of plain")
        assert files("gateway", "acme") == ["of acme"]
        assert files("gateway", "other") == ["of other"]
        assert files("gateway", None) == []
        assert files("plain", None) == files("plain", "acme") == files("plain", "nobody") == ["of plain"]
