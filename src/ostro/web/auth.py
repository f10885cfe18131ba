"""API keys. Everything needs one but what is listed as open."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ostro.core.errors import AuthenticationError
from ostro.web.errors import error_response

OPEN_PATHS = frozenset({"/health/live"})

# Under these keys of a scope: `IN_PROCESS` where the program itself calls, and whose request it is. Servers make scopes
# of what they receive and fill in keys of their own choosing, so nothing that is sent can put them there.
PRINCIPAL = "ostro.principal"
OWNER = "ostro.owner"
IN_PROCESS = object()

# Whose request a gateway passes on. Only a gateway's key makes it count.
TENANT_HEADER = "x-ostro-tenant"
_LONGEST_TENANT = 256


def owner_of(scope: Scope) -> str:
    """Whose request this is: who may find again what it stores, and share what caches hold for it. A digest in hex, of
    the API key, or of a gateway's key and the tenant that it names; empty where no key is wanted."""
    owner = scope.get(OWNER)
    return owner if isinstance(owner, str) else ""


def is_in_process(scope: Scope) -> bool:
    """Whether the program itself calls."""
    return scope.get(PRINCIPAL) is IN_PROCESS


class ApiKeyGate:
    """Plain ASGI. With no keys configured everybody passes; with any, every path but the open ones wants one.

    open_paths: more of them beside OPEN_PATHS; for files that carry no data. gateway_keys: more keys; what is sent with
    one of them belongs to the tenant that TENANT_HEADER names, which is ignored with any other.

    Authorises on `scope["path"]`, the path that is routed on: a URL rebuilt from headers can be forged
    (CVE-2026-48710). Paths are compared as they are; one that merely looks like an open path is not open.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Collection[str] = (),
        open_paths: Collection[str] = (),
        gateway_keys: Collection[str] = (),
    ) -> None:
        self.app = app
        self._open = OPEN_PATHS.union(open_paths)
        self._digests = [_digest(key) for key in (*gateway_keys, *keys)]
        self._gateways = len(gateway_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not self._digests or self._passes(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await error_response(_refusal(scope))(scope, receive, send)

    def _passes(self, scope: Scope) -> bool:
        if scope["path"] in self._open or is_in_process(scope):
            return True
        token = token_of(scope)
        if token is None:
            return False
        given = _digest(token)
        # No early exit, and digests of equal length: the time says nothing about which key was how close.
        matches = [hmac.compare_digest(given, known) for known in self._digests]
        if any(matches):
            scope[OWNER] = self._owner(scope, given, from_gateway=any(matches[: self._gateways]))
        return any(matches)

    def _owner(self, scope: Scope, key: bytes, *, from_gateway: bool) -> str:
        tenant = Headers(scope=scope).get(TENANT_HEADER, "")[:_LONGEST_TENANT] if from_gateway else ""
        return hashlib.sha256(key + tenant.encode()).hexdigest() if tenant else key.hex()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def token_of(scope: Scope) -> str | None:
    """The bearer token; without an Authorization header, what Anthropic's clients send instead."""
    headers = Headers(scope=scope)
    if "authorization" not in headers:
        return headers.get("x-api-key", "").strip() or None
    scheme, _, token = headers["authorization"].partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def _refusal(scope: Scope) -> AuthenticationError:
    if token_of(scope) is None:
        return AuthenticationError("No API key was given. Send it as 'Authorization: Bearer KEY'.", code="no_api_key")
    return AuthenticationError("The API key is not known here. Check OSTRO_API_KEY on both sides.")
