"""Answers that are given again: the same tenant, asking for exactly the same, gets what it got before.

In memory, of one gateway, by the digest of tenant, path and body; what it keeps is bounded in bytes and time. Only
answers that were complete are kept, and those that were streamed are given as the same stream.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from starlette.datastructures import Headers

from ostro.gateway.asking import Asked
from ostro.gateway.config import CacheSettings
from ostro.gateway.events import Counted

# Fields that say nothing of what is answered.
_ASIDE = ("user", "metadata", "priority", "timeout", "store", "safety_identifier", "prompt_cache_key")
_ENTRY_BYTES = 512
CACHE_HEADER = "x-ostro-cache"


@dataclass(frozen=True)
class Kept:
    """An answer: its pieces as they were sent. used: its tokens. node: that gave it."""

    pieces: tuple[bytes, ...]
    used: Counted
    node: str
    at: float

    @property
    def size(self) -> int:
        return sum(len(piece) for piece in self.pieces) + _ENTRY_BYTES


@dataclass(frozen=True)
class Wish:
    """What a request may have of the cache. reads: it takes what is kept; keeps: its answer is kept."""

    reads: bool
    keeps: bool


def wish_of(headers: Headers, asked: Asked, settings: CacheSettings) -> Wish:
    """A request uses the cache where its answer is the same every time, or where it says so (`x-ostro-cache: on`).
    `Cache-Control: no-cache` gets a new answer, which is kept; `no-store` leaves nothing behind either."""
    said = {one.strip().lower() for one in headers.get("cache-control", "").split(",")}
    wanted = headers.get(CACHE_HEADER, "").strip().lower()
    if not settings.enabled or "no-store" in said or wanted == "off":
        return Wish(reads=False, keeps=False)
    uses = asked.deterministic or wanted == "on" or not asked.endpoint.answers
    return Wish(reads=uses and "no-cache" not in said, keeps=uses)


class AnswerCache:
    """The least recently used goes first."""

    def __init__(self, settings: CacheSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self.bytes = 0
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: bytes) -> Kept | None:
        kept = self._kept.get(key)
        if kept is not None and self._clock() - kept.at > self._settings.ttl_s:
            self._drop(key)
            kept = None
        if kept is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(key)
        return kept

    def age_s(self, kept: Kept) -> int:
        return int(self._clock() - kept.at)

    def keep(self, key: bytes, pieces: tuple[bytes, ...], used: Counted, node: str) -> None:
        """Not where it alone is more than an eighth of what there is room for."""
        kept = Kept(pieces, used, node, self._clock())
        if kept.size * 8 > self._settings.max_bytes:
            return
        if key in self._kept:
            self._drop(key)
        self._kept[key] = kept
        self.bytes += kept.size
        while self.bytes > self._settings.max_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: bytes) -> None:
        self.bytes -= self._kept.pop(key).size


def key_of(tenant: str, asked: Asked) -> bytes:
    """Of all that an answer depends on, and of whose it is."""
    body = {name: value for name, value in asked.body.items() if name not in _ASIDE}
    body["model"] = asked.model
    parts = (tenant, asked.endpoint.path, msgspec.Raw(msgspec.json.encode(body, order="sorted")))
    return hashlib.blake2b(msgspec.json.encode(parts), digest_size=32).digest()
