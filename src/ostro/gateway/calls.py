"""One call: who asks for what, what it may come to, and what of it nodes are sent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ostro.core.errors import OstroError
from ostro.core.ids import new_id
from ostro.gateway.asking import Asked, Endpoint, read_asked
from ostro.gateway.billing import USUAL_TOKEN, Billing
from ostro.gateway.cache import Kept, Wish
from ostro.gateway.config import GatewayConfig, Tier
from ostro.gateway.keyring import NotAllowedError
from ostro.gateway.nodes import VIA_HEADER, Node, Nodes
from ostro.routing.nodes import Ask, Choice
from ostro.storage.accounts import Hold, Limits
from ostro.storage.keys import Key
from ostro.storage.ledger import Ledger

# No token has more bytes than this on the average of a text, so a prompt has at least so many.
_LONGEST_TOKEN = 16
_MOST_GATEWAYS = 8
_NO_WISH = Wish(reads=False, keeps=False)
# What nodes take for a priority.
_MOST_PRIORITY = 100


@dataclass
class Call:
    """One request under way. most_tokens: of its answers, where what they cost depends on that; None elsewhere."""

    key: Key
    tier: Tier
    asked: Asked
    billing: Billing
    most_tokens: int | None
    request_id: str
    via: str
    started: float
    choice: Choice | None = None
    wish: Wish = _NO_WISH
    cache_key: bytes = b""
    kept: Kept | None = None
    began: bool = False
    first_byte: float | None = None


class CycleError(OstroError):
    """Gateways that have each other for nodes."""

    status = 508
    type = "invalid_request_error"
    code = "gateway_cycle"


class Admission:
    """Makes calls of requests."""

    def __init__(self, config: GatewayConfig, nodes: Nodes, ledger: Ledger) -> None:
        self._config = config
        self._nodes = nodes
        self._ledger = ledger

    def read(self, endpoint: Endpoint, key: Key, data: bytes, request_id: str, via: Sequence[str]) -> Call:
        """via: the gateways that it came through, and this one. Raises CycleError, NotAllowedError and
        InvalidRequestError."""
        if len(set(via)) < len(via):
            raise CycleError(
                "The request has come back to a gateway that it came from: one of them is a node of another, in a "
                "circle. Take it out of the nodes of one."
            )
        if len(via) > _MOST_GATEWAYS:
            raise CycleError(f"The request has come through more than {_MOST_GATEWAYS} gateways.")
        asked = read_asked(endpoint, data, self._default_model(key))
        if not key.may_use(asked.model):
            raise NotAllowedError(f"This key may not use '{asked.model}'.", param="model")
        tier = self._config.tiers.get(key.tier)
        if tier is None:
            raise NotAllowedError(f"This key is of the tier '{key.tier}', which the gateway does not have any more.")
        limits = Limits(
            requests_per_minute=_either(key.requests_per_minute, tier.limits.requests_per_minute),
            tokens_per_minute=_either(key.tokens_per_minute, tier.limits.tokens_per_minute),
            concurrency=_either(key.concurrency, tier.limits.concurrency),
        )
        most = self._most_tokens(asked) * asked.choices if endpoint.answers else 0
        # Otherwise an answer of any length costs the same, and uses up nothing.
        counts = bool(tier.price.completion) or limits.tokens_per_minute is not None
        hold = Hold(
            call_id=new_id("call"),
            key_id=key.id,
            tenant=key.tenant,
            model=asked.model[:128],
            endpoint=endpoint.path,
            amount=tier.price.of(asked.prompt_tokens, most),
            tokens=asked.prompt_tokens + most,
            limits=limits,
        )
        guess = -(-asked.prompt_tokens // USUAL_TOKEN)
        billing = Billing(self._ledger, hold, tier.price, guess)
        return Call(key, tier, asked, billing, most if counts else None, request_id, ",".join(via), time.perf_counter())

    def _default_model(self, key: Key) -> str | None:
        names = (name for node in self._nodes for name in node.models)
        return next((name for name in names if key.may_use(name)), None)

    def _most_tokens(self, asked: Asked) -> int:
        if asked.max_tokens is not None:
            return asked.max_tokens
        sizes = [node.models[asked.model].max_output for node in self._nodes if asked.model in node.models]
        return max(sizes, default=0)


def ask_of(call: Call) -> Ask:
    """As routing sees it."""
    asked = call.asked
    return Ask(
        model=asked.model,
        modalities=asked.modalities,
        tokens=asked.prompt_tokens // _LONGEST_TOKEN if not asked.modalities else 0,
        tools=asked.tools,
        region=call.key.region,
        beginning=asked.beginning,
        priority=call.tier.priority + call.key.priority,
    )


def headers_for(call: Call, node: Node) -> dict[str, str]:
    """What a node is told beside the body."""
    headers = {"x-request-id": call.request_id, VIA_HEADER: call.via}
    if node.settings.kind == "ostro":
        headers["x-ostro-tenant"] = call.key.tenant
    return headers


def changes_for(call: Call, node: Node) -> dict[str, Any]:
    """Fields of the body that are the gateway's to decide."""
    asked = call.asked
    changes: dict[str, Any] = {}
    if asked.stream and asked.endpoint.usage_option:
        options = asked.body.get("stream_options")
        changes["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
        if node.settings.kind == "ostro":
            changes["stream_options"]["continuous_usage_stats"] = True
    if asked.max_tokens is None and asked.endpoint.most and call.most_tokens is not None:
        changes[asked.endpoint.most[-1]] = call.most_tokens // asked.choices
    if node.settings.kind == "ostro":
        # A node serves low numbers first. Nobody overtakes others by a field of the body.
        given = asked.body.get("priority")
        own = max(0, given) if isinstance(given, int) and not isinstance(given, bool) else 0
        priority = own - (call.tier.priority + call.key.priority)
        if priority or given is not None:
            changes["priority"] = max(-_MOST_PRIORITY, min(_MOST_PRIORITY, priority))
    return changes


def _either(own: int | None, tiers: int | None) -> int | None:
    return own if own is not None else tiers
