"""What a caller may read beside answers: readiness, models, its own usage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ostro.core.errors import NotReadyError
from ostro.gateway.usage_export import usage_response
from ostro.storage.keys import Key

if TYPE_CHECKING:
    from ostro.gateway.app import GatewayContext

# When models were made is not known here, and clients want a number.
_CREATED = 1_700_000_000


async def ready(request: Request) -> Response:
    """503 while no node answers."""
    context = _context(request)
    away = [f"{node.name} {why}" for node in context.nodes if (why := node.why_not()) is not None]
    if len(away) == sum(1 for _ in context.nodes):
        raise NotReadyError(f"No node answers: {'; '.join(away) or 'there is none'}.", retry_after=1.0)
    return _json({"status": "ready", "away": away})


async def models(request: Request) -> Response:
    """Those that the key may use, in the order of the nodes."""
    key: Key = request.scope["ostro.key"]
    found: dict[str, dict[str, object]] = {}
    for node in _context(request).nodes:
        for model in node.models.values():
            if not key.may_use(model.name) or (key.region is not None and node.settings.region != key.region):
                continue
            one = found.setdefault(
                model.name,
                {"id": model.name, "object": "model", "created": _CREATED, "owned_by": "ostro", "ready": False},
            )
            one["ready"] = bool(one["ready"]) or node.why_not() is None
            if model.context is not None:
                one["max_context_length"] = one["max_model_len"] = model.context
            one["capabilities"] = {
                "completion_chat": True,
                "function_calling": model.tools,
                "vision": "image" in model.modalities,
                "audio": "audio" in model.modalities,
            }
    return _json({"object": "list", "data": list(found.values())})


async def usage(request: Request) -> Response:
    """Of the key's tenant, and of no other, whatever is asked for."""
    key: Key = request.scope["ostro.key"]
    return await usage_response(request, _context(request).database, tenant=key.tenant)


def _context(request: Request) -> GatewayContext:
    context: GatewayContext = request.app.state.context
    return context


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
