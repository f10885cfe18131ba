"""What administers a gateway: keys and nodes, under /admin, for keys that may."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ostro.core.errors import InvalidRequestError, OstroError
from ostro.core.money import micros, usd
from ostro.gateway.config import NodeSettings, check_node
from ostro.gateway.nodes import Node
from ostro.gateway.usage_export import usage_response
from ostro.storage.keys import Key, NewKey, change_key, create_key, list_keys, revoke_key

if TYPE_CHECKING:
    from ostro.gateway.app import GatewayContext

log = logging.getLogger("ostro.gateway")

T = TypeVar("T")

_PREFIX = "/admin/"
_GRACE_S = 30.0
_LONGEST_NAME = 128


class NotFoundError(OstroError):
    """There is no such thing."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class WantedKey(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A key to make. watches: it may read /metrics. budget_usd: US dollars that it may spend in all. expires_in_s:
    seconds from now."""

    name: str
    tier: str
    tenant: str | None = None
    admin: bool = False
    watches: bool = False
    models: list[str] | None = None
    region: str | None = None
    priority: int = 0
    budget_usd: str | float | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    expires_in_s: float | None = None

    def checked(self, tiers: frozenset[str]) -> NewKey:
        """Raises InvalidRequestError naming the field."""
        if not self.name.strip() or len(self.name) > _LONGEST_NAME:
            raise InvalidRequestError(f"'name' must have 1 to {_LONGEST_NAME} characters.", param="name")
        if self.tier not in tiers:
            raise InvalidRequestError(f"'tier' must be one of {', '.join(sorted(tiers))}.", param="tier")
        tenant = self.name if self.tenant is None else self.tenant
        if not tenant.strip() or len(tenant) > _LONGEST_NAME:
            raise InvalidRequestError(f"'tenant' must have 1 to {_LONGEST_NAME} characters.", param="tenant")
        for name in ("requests_per_minute", "tokens_per_minute", "concurrency"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 10**9:
                raise InvalidRequestError(f"'{name}' must be from 1 to {10**9}.", param=name)
        if not -100 <= self.priority <= 100:
            raise InvalidRequestError("'priority' must be from -100 to 100.", param="priority")
        if self.expires_in_s is not None and not 0 < self.expires_in_s <= 10**10:
            raise InvalidRequestError("'expires_in_s' must be above 0.", param="expires_in_s")
        return NewKey(
            name=self.name,
            tenant=tenant,
            tier=self.tier,
            admin=self.admin,
            watches=self.watches,
            models=self.models,
            region=self.region,
            priority=self.priority,
            budget=None if self.budget_usd is None else _micros(self.budget_usd),
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            concurrency=self.concurrency,
            expires_at=None if self.expires_in_s is None else time.time() + self.expires_in_s,
        )


class ChangedKey(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Fields of a key to change; those that are left out stay, and null takes a limit away."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    models: list[str] | msgspec.UnsetType | None = msgspec.UNSET
    budget_usd: str | float | msgspec.UnsetType | None = msgspec.UNSET
    requests_per_minute: int | msgspec.UnsetType | None = msgspec.UNSET
    tokens_per_minute: int | msgspec.UnsetType | None = msgspec.UNSET
    concurrency: int | msgspec.UnsetType | None = msgspec.UNSET
    tier: str | msgspec.UnsetType = msgspec.UNSET

    def checked(self, tiers: frozenset[str]) -> dict[str, Any]:
        """Raises InvalidRequestError naming the field."""
        changes = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not msgspec.UNSET}
        given = {name: value for name, value in changes.items() if value is not None}
        WantedKey(**{"name": "-", "tier": min(tiers), **given}).checked(tiers)  # as those of a new one
        if "budget_usd" in changes:
            budget = changes.pop("budget_usd")
            changes["budget"] = None if budget is None else _micros(budget)
        return changes


class WantedNode(NodeSettings, frozen=True):
    """A node to add, as the file has them. key: its own key, where the environment has none for it."""

    key: str | None = None


def is_admin_path(path: str) -> bool:
    return path.startswith(_PREFIX)


def routes() -> list[Route]:
    return [
        Route("/admin/keys", _keys, methods=["GET"]),
        Route("/admin/keys", _make_key, methods=["POST"]),
        Route("/admin/keys/{id}", _change_key, methods=["PATCH"]),
        Route("/admin/keys/{id}", _revoke_key, methods=["DELETE"]),
        Route("/admin/nodes", _nodes, methods=["GET"]),
        Route("/admin/nodes", _add_node, methods=["POST"]),
        Route("/admin/nodes/{name:path}", _remove_node, methods=["DELETE"]),
        Route("/admin/usage", _usage, methods=["GET"]),
        Route("/admin/overview", _overview, methods=["GET"]),
    ]


def key_record(key: Key) -> dict[str, Any]:
    """A key as it is told: never the key itself, nor its digest."""
    record = msgspec.structs.asdict(key)
    for name in ("budget", "spent", "reserved"):
        amount = record.pop(name)
        record[f"{name}_usd"] = None if amount is None else usd(amount)
    return record


async def _keys(request: Request) -> Response:
    found = await _context(request).database.read(list_keys)
    return _json({"object": "list", "data": [key_record(key) for key in found]})


async def _make_key(request: Request) -> Response:
    context = _context(request)
    wanted = (await _read(request, WantedKey)).checked(frozenset(context.config.tiers))
    secret, key = await context.database.write(lambda connection: create_key(connection, wanted))
    return _json({"key": secret, **key_record(key)}, status=201)


async def _change_key(request: Request) -> Response:
    context = _context(request)
    changes = (await _read(request, ChangedKey)).checked(frozenset(context.config.tiers))
    key_id = request.path_params["id"]
    return await _changed(context, await context.database.write(lambda c: change_key(c, key_id, changes)), key_id)


async def _revoke_key(request: Request) -> Response:
    context, key_id = _context(request), request.path_params["id"]
    return await _changed(context, await context.database.write(lambda c: revoke_key(c, key_id)), key_id)


async def _changed(context: GatewayContext, key: Key | None, key_id: str) -> Response:
    if key is None:
        raise NotFoundError(f"There is no key '{key_id[:64]}'.", param="id")
    context.keyring.forget()
    return _json(key_record(key))


async def _nodes(request: Request) -> Response:
    return _json({"object": "list", "data": [node_record(node) for node in _context(request).nodes]})


def node_record(node: Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "url": node.settings.url,
        "kind": node.settings.kind,
        "device": node.settings.device,
        "region": node.settings.region,
        "models": list(node.models),
        "capacity": node.settings.capacity,
        "in_flight": node.in_flight,
        "load": round(node.load, 4),
        "kv_usage": node.signals.kv_usage,
        "running": node.signals.running,
        "waiting": node.signals.waiting,
        "answers": node.why_not() is None,
        "why_not": node.why_not(),
    }


async def _add_node(request: Request) -> Response:
    """Until the gateway is started again: what is to stay belongs into its file."""
    context = _context(request)
    wanted = await _read(request, WantedNode)
    try:
        check_node(wanted, "node")
        cost = wanted.cost.price("node.cost")
    except OstroError as error:
        raise InvalidRequestError(error.message, param=error.param) from error
    if wanted.key_env is not None:
        raise InvalidRequestError("Give the node's key as 'key': environments are read at the start.", param="key_env")
    node = Node(wanted, context.config.settings.routing, wanted.key, cost)
    context.nodes.add(node)
    log.info("Node '%s' was added.", node.name)
    return _json(node_record(node), status=201)


async def _remove_node(request: Request) -> Response:
    """What runs there ends first."""
    context, name = _context(request), request.path_params["name"]
    if name not in context.nodes:
        raise NotFoundError(f"There is no node '{name[:64]}'.", param="name")
    idle = await context.nodes.remove(name, _GRACE_S)
    log.info("Node '%s' was removed.", name)
    return _json({"name": name, "removed": True, "idle": idle})


async def _overview(request: Request) -> Response:
    """All that the page draws, at once."""
    context = _context(request)
    answering = context.answering
    body = {
        **answering.overview.snapshot(),
        "at": time.time(),
        "running": answering.running,
        "spilling": answering.spill.on,
        "ledger_waiting": context.ledger.waiting,
        "cache": {
            "enabled": context.config.settings.cache.enabled,
            "hits": answering.cache.hits,
            "misses": answering.cache.misses,
            "bytes": answering.cache.bytes,
        },
        "tiers": list(context.config.tiers),
        "nodes": [node_record(node) for node in context.nodes],
    }
    return _json(body)


async def _usage(request: Request) -> Response:
    return await usage_response(request, _context(request).database, tenant=request.query_params.get("tenant"))


async def _read(request: Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"{error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError(f"The body is not JSON: {error}.") from error


def _micros(given: str | float) -> int:
    try:
        return micros(given, "budget_usd")
    except OstroError as error:
        raise InvalidRequestError(error.message, param="budget_usd") from error


def _context(request: Request) -> GatewayContext:
    context: GatewayContext = request.app.state.context
    return context


def _json(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status_code=status, media_type="application/json")
