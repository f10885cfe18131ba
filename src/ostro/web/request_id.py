"""`X-Request-Id`: echoed, or made, on every answer."""

from __future__ import annotations

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ostro.core.ids import new_id

_HEADER = "x-request-id"
# What may go back into a header and into a log line as it came.
_PLAIN = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class RequestId:
    """Plain ASGI, outermost, so that errors of every layer below carry the id too.

    The id is in `scope["state"]["request_id"]` for whoever logs.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(_HEADER, "")
        request_id = given if _PLAIN.fullmatch(given) else new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id

        async def tag(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[_HEADER] = request_id
            await send(message)

        await self.app(scope, receive, tag)
