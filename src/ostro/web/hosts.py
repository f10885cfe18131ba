"""Web pages of other sites: one must not reach a loopback address under a name of its own (CVE-2024-28224), nor have
visitors' browsers change what a server does."""

from __future__ import annotations

import ipaddress

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ostro.core.errors import OstroError
from ostro.web.errors import error_response


class ForbiddenHostError(OstroError):
    """A request for a host that this server is not."""

    status = 403
    type = "invalid_request_error"
    code = "forbidden_host"


class ForbiddenSiteError(OstroError):
    """A browser sends it for a page of another site."""

    status = 403
    type = "invalid_request_error"
    code = "forbidden_site"


def is_loopback(host: str) -> bool:
    """Whether a name or address reaches this machine only.

    >>> is_loopback("localhost"), is_loopback("127.0.0.2"), is_loopback("0.0.0.0"), is_loopback("127.0.0.1.evil")
    (True, True, False, False)
    """
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def refuse_other_sites(request: Request) -> None:
    """For a POST without a body, which browsers send to any address for any page. Raises ForbiddenSiteError.

    JSON is let through: a browser asks first whether a page may send that, and CORS answers.
    """
    site = request.headers.get("sec-fetch-site", "none")
    if site not in ("none", "same-origin") and not request.headers.get("content-type", "").startswith(
        "application/json"
    ):
        raise ForbiddenSiteError("A page of another site may not do this. Send it as application/json.")


class LoopbackHosts:
    """Plain ASGI. Refuses requests whose Host is not a loopback name or address.

    Against DNS rebinding: a page from evil.example may point its own name at 127.0.0.1, but its requests still
    say `Host: evil.example`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        host = Headers(scope=scope).get("host", "")
        if is_loopback(_without_port(host)):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            error = ForbiddenHostError(
                f"This server listens on the loopback address only, but the request is for host {host!r}. "
                "Call it as 127.0.0.1 or localhost, or bind it to another address with --host."
            )
            await error_response(error)(scope, receive, send)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
