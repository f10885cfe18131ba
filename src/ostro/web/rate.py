"""`x-ratelimit-*`: what a node can still take, in the headers that clients pace themselves by."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ostro.core.protocols import Generate

_PREFIX = "/v1/"

HEADERS = tuple(f"x-ratelimit-{what}-{of}" for of in ("requests", "tokens") for what in ("limit", "remaining", "reset"))


class Allowance(NamedTuple):
    """Room of one engine. requests: running and waiting ones that it takes. tokens: what its KV cache holds.

    reset_s: seconds until all that it has now is served, at its recent pace; None while there is no pace to go by.
    """

    requests: int
    requests_left: int
    tokens: int
    tokens_left: int
    reset_s: float | None

    @classmethod
    def of(cls, engine: Generate) -> Allowance | None:
        """From the newest snapshot; None while nothing is loaded, or of an engine that does not tell its room."""
        card, stats = engine.card, engine.stats
        if card is None or not card.max_requests:
            return None
        here = stats.running + stats.waiting
        return cls(
            requests=card.max_requests,
            requests_left=max(0, card.max_requests - here),
            tokens=card.kv_tokens,
            tokens_left=math.floor(card.kv_tokens * (1.0 - stats.kv_usage)),
            reset_s=stats.drain_s if here else 0.0,
        )

    def headers(self) -> dict[str, str]:
        """One value for each of HEADERS, but no reset that is not known. A reset is in whole seconds: `12s`."""
        reset = {} if self.reset_s is None else {"reset": f"{math.ceil(self.reset_s)}s"}
        requests = {"limit": self.requests, "remaining": self.requests_left, **reset}
        tokens = {"limit": self.tokens, "remaining": self.tokens_left, **reset}
        both = (("requests", requests), ("tokens", tokens))
        return {f"x-ratelimit-{what}-{of}": str(value) for of, values in both for what, value in values.items()}


class RateHeaders:
    """Plain ASGI. Adds the headers to every answer under /v1 whose engine is known.

    allowance_of: what the engine of a request, known by its scope, can still take.
    """

    def __init__(self, app: ASGIApp, allowance_of: Callable[[Scope], Allowance | None]) -> None:
        self.app = app
        self.allowance_of = allowance_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_PREFIX):
            await self.app(scope, receive, send)
            return

        async def tag(message: Message) -> None:
            if message["type"] == "http.response.start":
                allowance = self.allowance_of(scope)
                if allowance is not None:
                    MutableHeaders(scope=message).update(allowance.headers())
            await send(message)

        await self.app(scope, receive, tag)
