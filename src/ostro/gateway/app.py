"""Puts a gateway's HTTP application together. Plain ASGI on the way of calls, where every microsecond counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ostro.core.errors import OstroError
from ostro.gateway import admin, reading
from ostro.gateway.answering import Answering
from ostro.gateway.asking import ENDPOINTS
from ostro.gateway.config import GatewayConfig
from ostro.gateway.keyring import Keyring
from ostro.gateway.nodes import Node, Nodes
from ostro.gateway.outward import outward
from ostro.observability.gateway import GatewayMetrics, GatewayState, NodeState
from ostro.observability.metrics import CONTENT_TYPE
from ostro.storage import Database
from ostro.storage.ledger import Ledger
from ostro.web.assets import SHARED, Assets
from ostro.web.auth import OPEN_PATHS
from ostro.web.body import BodyLimit
from ostro.web.errors import ErrorBoundary, error_response, handle_http_exception, handle_ostro_error
from ostro.web.head import HeadAsGet
from ostro.web.hosts import LoopbackHosts
from ostro.web.message_errors import MessageErrors
from ostro.web.request_id import RequestId

_ASSETS = Assets([SHARED, Path(__file__).resolve().parent / "page"])
_OPEN = OPEN_PATHS | _ASSETS.paths


@dataclass
class GatewayContext:
    """What routes share."""

    config: GatewayConfig
    database: Database
    keyring: Keyring
    ledger: Ledger
    nodes: Nodes
    answering: Answering
    metrics: GatewayMetrics


class Gateway:
    """The ASGI application. Whatever is asked for, a key is looked at first, but for what is open to everybody."""

    def __init__(self, config: GatewayConfig, *, loopback_only: bool = False) -> None:
        """Raises ConfigError where the store cannot be opened. loopback_only: as `ostro.server.create_app` has it."""
        database = Database(config.store, servers=True, option="store")
        ledger = Ledger(database, config.name)
        nodes = Nodes(config.settings.routing, via=ledger.replica)
        for settings in config.settings.nodes:
            nodes.add(
                Node(settings, config.settings.routing, config.keys.get(settings.name), config.costs[settings.name])
            )
        metrics = GatewayMetrics(self._state)
        self.context = GatewayContext(
            config=config,
            database=database,
            keyring=Keyring(database),
            ledger=ledger,
            nodes=nodes,
            answering=Answering(config, nodes, ledger, metrics),
            metrics=metrics,
        )
        others = Starlette(
            routes=[
                Route("/health/live", _live),
                Route("/health/ready", reading.ready),
                Route("/metrics", _metrics),
                Route("/v1/models", reading.models),
                Route("/v1/models/{name:path}", reading.model),
                Route("/v1/usage", reading.usage),
                *admin.routes(),
            ],
            exception_handlers={OstroError: _told, HTTPException: handle_http_exception},
            lifespan=self._lifespan,
        )
        others.router.redirect_slashes = False
        others.state.context = self.context
        self._others = others
        self._app = self._wrapped(loopback_only)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._others(scope, receive, send)
        elif scope["type"] == "http":
            await self._app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _wrapped(self, loopback_only: bool) -> ASGIApp:
        app: ASGIApp = BodyLimit(HeadAsGet(self._route), limit=self.context.config.settings.max_body)
        app = _Gate(app, self.context.keyring)
        if loopback_only:
            app = LoopbackHosts(app)
        return RequestId(MessageErrors(ErrorBoundary(app)))

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = ENDPOINTS.get(scope["path"])
        if scope["path"] in _ASSETS.paths and scope["method"] == "GET":
            page = _ASSETS.response(scope["path"], Headers(scope=scope).get("if-none-match", ""))
            assert page is not None
            await page(scope, receive, send)
            return
        if endpoint is None or scope["method"] != "POST":
            await self._others(scope, receive, send)
            return
        message = await receive()
        data = message.get("body", b"")
        while message.get("more_body"):
            message = await receive()
            data += message.get("body", b"")
        await self.context.answering(endpoint, scope["ostro.key"], data, scope, receive, send)

    def _state(self) -> GatewayState:
        context = self.context
        return GatewayState(
            nodes=tuple(_state_of(node) for node in context.nodes),
            calls=context.answering.running,
            spilling=context.answering.spill.on,
            ledger_waiting=context.ledger.waiting,
            cache_hits=context.answering.cache.hits,
            cache_misses=context.answering.cache.misses,
            cache_bytes=context.answering.cache.bytes,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        context = self.context
        await context.ledger.start()
        await context.nodes.start()
        try:
            yield
        finally:
            await context.nodes.close()
            await context.ledger.close()
            context.database.close()


class _Gate:
    """Nothing is routed before its key is known; a path that is not there is 401 without one as well."""

    def __init__(self, app: ASGIApp, keyring: Keyring) -> None:
        self._app = app
        self._keyring = keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in _OPEN:
            try:
                if admin.is_admin_path(scope["path"]):
                    scope["ostro.key"] = await self._keyring.admin(scope)
                elif scope["path"] == "/metrics":
                    scope["ostro.key"] = await self._keyring.watcher(scope)
                else:
                    scope["ostro.key"] = await self._keyring.caller(scope)
            except OstroError as error:
                await error_response(outward(error))(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, OstroError)
    return await handle_ostro_error(request, outward(error))


def _state_of(node: Node) -> NodeState:
    return NodeState(
        name=node.name,
        answers=node.why_not() is None,
        load=node.load,
        in_flight=node.in_flight,
        capacity=node.settings.capacity,
        kv_usage=node.signals.kv_usage,
        device=node.signals.device,
        waiting=node.signals.waiting,
    )


async def _metrics(request: Request) -> Response:
    context: GatewayContext = request.app.state.context
    return Response(context.metrics.exposition(), headers={"content-type": CONTENT_TYPE})


async def _live(_: Request) -> Response:
    return Response(b'{"status":"live"}', media_type="application/json")
