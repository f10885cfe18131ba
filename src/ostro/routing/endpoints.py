"""Which nodes a client may call, in which order, and why. Pure: no network, no clock."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from ostro.core.errors import ConfigError, InvalidRequestError

DEFAULT_URL = "http://127.0.0.1:8000"
# In the place of a URL: a node that the client starts on this machine, for itself.
OWN_EDGE = "own"
MODES = ("auto", "edge", "cloud")
_ALIASES = {"edge": ("edge",), "cloud": ("cloud",), "cloud/edge": ("edge", "cloud"), "edge/cloud": ("edge", "cloud")}


@dataclass(frozen=True)
class Candidate:
    """A node to try. route: "edge" or "cloud". url: or OWN_EDGE. reason: why it is tried at this place."""

    route: str
    url: str
    reason: str


def candidates(endpoint: str, mode: str, environment: Mapping[str, str]) -> list[Candidate]:
    """The nodes to try, best first; the next is for when the one before cannot be reached.

    endpoint: a URL, or "edge", "cloud" or "cloud/edge", which stand for OSTRO_EDGE_URL (by default OWN_EDGE) and
    OSTRO_CLOUD_URL of the environment. mode: "auto", or "edge" or "cloud" to insist.
    Raises InvalidRequestError for an unknown mode, ConfigError for an endpoint that cannot be resolved.

    >>> [c.route for c in candidates("cloud/edge", "auto", {"OSTRO_CLOUD_URL": "https://c"})]
    ['cloud', 'edge']
    >>> [c.route for c in candidates("cloud/edge", "auto", {})]
    ['edge']
    """
    if mode not in MODES:
        raise InvalidRequestError(f"mode must be one of {', '.join(MODES)}, not {mode!r}.", param="mode")
    if endpoint not in _ALIASES:
        url = _checked(endpoint)
        route = ("edge" if is_local(url) else "cloud") if mode == "auto" else mode
        return [Candidate(route, url, f"{url} is the only endpoint given")]
    allowed = [route for route in _ALIASES[endpoint] if mode in ("auto", route)]
    if not allowed:
        raise ConfigError(f"mode={mode!r} is not possible with endpoint={endpoint!r}.", param="mode")
    urls = _urls(environment)
    if "cloud" in allowed and "cloud" not in urls:
        if allowed == ["cloud"]:
            raise ConfigError("The cloud endpoint is not configured: set OSTRO_CLOUD_URL, or give a URL as endpoint.")
        allowed.remove("cloud")
        return [Candidate("edge", urls["edge"], "no cloud endpoint is configured (OSTRO_CLOUD_URL)")]
    if len(allowed) == 1:
        because = f"mode={mode!r} asks for it" if mode != "auto" else f"endpoint={endpoint!r} asks for it"
        return [Candidate(allowed[0], urls[allowed[0]], because)]
    return _ordered(urls, edge_is_configured="OSTRO_EDGE_URL" in environment)


def is_local(url: str) -> bool:
    """Whether a URL's host is this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _ordered(urls: Mapping[str, str], *, edge_is_configured: bool) -> list[Candidate]:
    """Both are possible: the near one first, unless only the far one was set up on purpose."""
    if edge_is_configured:
        return [
            Candidate("edge", urls["edge"], "edge and cloud are configured; the edge is nearer"),
            Candidate("cloud", urls["cloud"], "the edge could not be reached"),
        ]
    return [
        Candidate("cloud", urls["cloud"], "only the cloud is configured"),
        Candidate("edge", urls["edge"], "the cloud could not be reached"),
    ]


def _urls(environment: Mapping[str, str]) -> dict[str, str]:
    given = environment.get("OSTRO_EDGE_URL")
    urls = {"edge": _checked(given) if given else OWN_EDGE}
    if environment.get("OSTRO_CLOUD_URL"):
        urls["cloud"] = _checked(environment["OSTRO_CLOUD_URL"])
    return urls


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        known = ", ".join(f"'{alias}'" for alias in _ALIASES)
        raise ConfigError(
            f"endpoint must be a URL such as {DEFAULT_URL}, or one of {known}, not {url!r}.", param="endpoint"
        )
    # SDKs of both vendors are configured with ".../v1"; ours adds it itself.
    return url.rstrip("/").removesuffix("/v1")
