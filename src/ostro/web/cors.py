"""Cross-origin requests: none, but from pages that the operator named."""

from __future__ import annotations

import re
from collections.abc import Collection

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from ostro.core.errors import ConfigError
from ostro.web.rate import HEADERS as RATE_HEADERS

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")
_METHODS = ("GET", "POST", "DELETE")
# What a page's script may read of an answer beside the few headers that it always may.
_EXPOSED = ("x-request-id", "request-id", "x-ostro-ignored", "retry-after", *RATE_HEADERS)


def check_origins(origins: Collection[str]) -> None:
    """Raises ConfigError for one that no browser would send: a path, a trailing slash, capital letters."""
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                f"{origin!r} is no origin. Write it as a browser sends it, such as https://app.example or "
                "http://localhost:3000, or '*' for any page.",
                param="cors_origin",
            )


def add_cors(app: FastAPI, origins: Collection[str]) -> None:
    """Let pages of these origins call; "*" lets any. Without origins nothing is added, and browsers refuse all.

    Cookies are never allowed: a key is a header that the page's own script has to know. A page on another machine
    may reach a node on a private address, because whoever named its origin wanted that.
    """
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=_METHODS,
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=_EXPOSED,
        )
