"""Files of a page: read once, sent with headers that let it load nothing from elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.responses import Response

# What every page has: colours, type, how elements are made.
SHARED = Path(__file__).resolve().parent / "page"

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

# Nothing from elsewhere, nothing inline, no markup made of strings: what a model says stays text. Images are shown from
# data URLs and sounds from blobs, which hold what the user attached.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "media-src blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)


@dataclass(frozen=True)
class Asset:
    """A file of a page, ready to be sent."""

    content: bytes
    headers: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Asset:
        content = path.read_bytes()
        headers = {
            "content-type": _TYPES[path.suffix],
            # Asked for again each time, and answered with 304: an upgraded server never meets an old page.
            "cache-control": "no-cache",
            "etag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
            "content-security-policy": _POLICY,
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
            "referrer-policy": "no-referrer",
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
        }
        return cls(content, headers)


class Assets:
    """The files of `folders` under `/page/`, and the last one's `index.html` at `/`."""

    def __init__(self, folders: Sequence[Path]) -> None:
        files = {f"/page/{path.name}": path for folder in folders for path in folder.iterdir() if path.suffix in _TYPES}
        files["/"] = files.pop("/page/index.html")
        self._assets = {url: Asset.read(path) for url, path in files.items()}
        # Open without a key: exactly these files, which carry no data. What a page shows, it asks for with a key.
        self.paths = frozenset(self._assets)

    def response(self, path: str, known: str) -> Response | None:
        """known: the request's If-None-Match. None where there is no such file."""
        asset = self._assets.get(path)
        if asset is None:
            return None
        if _is_fresh(known, asset.headers["etag"]):
            headers = {name: value for name, value in asset.headers.items() if name != "content-type"}
            return Response(status_code=304, headers=headers)
        return Response(asset.content, headers=asset.headers)


def _is_fresh(known: str, etag: str) -> bool:
    """Whether the client has this version, by its If-None-Match (RFC 9110, 13.1.2: weak comparison)."""
    return known.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in known.split(","))
