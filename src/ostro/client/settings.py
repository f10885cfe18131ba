"""What both clients keep and how they decide; no input or output here."""

from __future__ import annotations

import os
import random
from typing import Any

from ostro.client.edge import DEFAULT_EDGE_MODEL
from ostro.core.errors import APIConnectionError, InvalidRequestError, NotReadyError, OstroError, QueueFullError
from ostro.routing.endpoints import DEFAULT_URL, candidates, is_local

DEFAULT_TIMEOUT_S = 600.0
_CONNECT_S = 5.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


class Settings:
    """What both clients keep and how they decide; no input or output here."""

    def __init__(
        self,
        api_key: str | None = None,
        endpoint: str = DEFAULT_URL,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        max_retries: int = 2,
        edge_model: str | None = None,
    ) -> None:
        """api_key: by default OSTRO_API_KEY. endpoint: a URL, or "edge", "cloud" or "cloud/edge", which stand for
        OSTRO_EDGE_URL (by default a node that this process starts for itself, with edge_model) and OSTRO_CLOUD_URL.
        timeout: seconds a server may be silent. max_retries: further tries after 429, 503 or a refused connection,
        before anything was answered. edge_model: a name or path; by default OSTRO_EDGE_MODEL, or the embedded one.
        """
        if timeout <= 0:
            raise InvalidRequestError(f"timeout must be above 0 seconds, not {timeout:g}.", param="timeout")
        if max_retries < 0:
            raise InvalidRequestError("max_retries must not be negative.", param="max_retries")
        self.api_key = api_key if api_key is not None else os.environ.get("OSTRO_API_KEY")
        self.endpoint = endpoint
        self.timeout = timeout
        self.max_retries = max_retries
        self.edge_model = edge_model or os.environ.get("OSTRO_EDGE_MODEL") or DEFAULT_EDGE_MODEL
        candidates(endpoint, "auto", os.environ)  # A wrong endpoint is told now, not at the first call.

    def _http_options(self, url: str, key: str | None) -> dict[str, Any]:
        import httpx2

        from ostro import __version__

        headers = {"user-agent": f"ostro/{__version__}"}
        if key:
            headers["authorization"] = f"Bearer {key}"
        return {
            "base_url": url,
            "headers": headers,
            "timeout": httpx2.Timeout(self.timeout, connect=_CONNECT_S),
            # A proxy from the environment has no way to this machine's own loopback.
            "trust_env": not is_local(url),
            "limits": httpx2.Limits(max_connections=None, max_keepalive_connections=20),
        }

    def _pause(self, error: OstroError, attempt: int, *, is_last_node: bool) -> float | None:
        """Seconds until the next try of the same node; None where there is to be none."""
        if attempt >= self.max_retries or not isinstance(error, NotReadyError | QueueFullError | APIConnectionError):
            return None
        if isinstance(error, APIConnectionError) and not (is_last_node and error.code == "connection_refused"):
            return None  # Another node is there to try, or the request may have been taken already.
        asked = getattr(error, "retry_after", None)
        own = _FIRST_PAUSE_S * 2.0**attempt * random.uniform(0.75, 1.25)
        return float(min(_LONGEST_PAUSE_S, asked if asked is not None else own))
