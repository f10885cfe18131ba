"""What a caller may read beside answers: readiness, models, its own usage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ostro.core.errors import ModelNotFoundError, NotReadyError
from ostro.gateway.usage_export import usage_response
from ostro.storage.keys import Key

if TYPE_CHECKING:
    from ostro.gateway.app import GatewayContext

# When models were made is not known here, and clients want a number.
_CREATED = 1_700_000_000


async def ready(request: Request) -> Response:
    """503 while no node answers."""
    context = _context(request)
    if context.answering.draining:
        raise NotReadyError("The gateway is shutting down.", retry_after=5.0)
    away = [f"{node.name} {why}" for node in context.nodes if (why := node.why_not()) is not None]
    if len(away) == sum(1 for _ in context.nodes):
        raise NotReadyError(f"No node answers: {'; '.join(away) or 'there is none'}.", retry_after=1.0)
    return _json({"status": "ready", "away": away})


async def models(request: Request) -> Response:
    """Those that the key may use, in the order of the nodes."""
    return _json({"object": "list", "data": list(_models(request).values())})


async def model(request: Request) -> Response:
    """One of them."""
    name = request.path_params["name"]
    found = _models(request).get(name)
    if found is None:
        raise ModelNotFoundError(
            f"The model '{name[:128]}' is not served here. `GET /v1/models` lists what is.", param="model"
        )
    return _json(found)


def _models(request: Request) -> dict[str, dict[str, object]]:
    key: Key = request.scope["ostro.key"]
    found: dict[str, dict[str, object]] = {}
    for node in _context(request).nodes:
        for one in node.models.values():
            if not key.may_use(one.name) or (key.region is not None and node.settings.region != key.region):
                continue
            record = found.setdefault(
                one.name,
                {"id": one.name, "object": "model", "created": _CREATED, "owned_by": "ostro", "ready": False},
            )
            record["ready"] = bool(record["ready"]) or node.why_not() is None
            if one.context is not None:
                record["max_context_length"] = record["max_model_len"] = one.context
            record["capabilities"] = {
                "completion_chat": True,
                "function_calling": one.tools,
                "vision": "image" in one.modalities,
                "audio": "audio" in one.modalities,
            }
    return found


async def usage(request: Request) -> Response:
    """Of the key's tenant, and of no other, whatever is asked for."""
    key: Key = request.scope["ostro.key"]
    return await usage_response(request, _context(request).database, tenant=key.tenant)


def _context(request: Request) -> GatewayContext:
    context: GatewayContext = request.app.state.context
    return context


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
