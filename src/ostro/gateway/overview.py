"""What a gateway does just now, for its page: rates and times over the last seconds, totals since it started."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# What "now" is, and how many calls of it are looked at.
_RECENT_S = 10.0
_MOST_RECENT = 20_000


@dataclass(frozen=True)
class EndedCall:
    """seconds, first_byte: from the request on; first_byte None where there was none. usd: micro-dollars."""

    at: float
    node: str | None
    outcome: str
    seconds: float
    first_byte: float | None
    tokens: int
    charge: int


class Overview:
    """Told of each call as it ends."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._recent: deque[EndedCall] = deque(maxlen=_MOST_RECENT)
        self._outcomes: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._nodes: Counter[str] = Counter()
        self._tokens = 0
        self._charge = 0

    def refused(self, code: str) -> None:
        self._refusals[code] += 1

    def ended(
        self, node: str | None, outcome: str, seconds: float, first_byte: float | None, tokens: int, charge: int
    ) -> None:
        self._recent.append(EndedCall(self._clock(), node, outcome, seconds, first_byte, tokens, charge))
        self._outcomes[outcome] += 1
        if node is not None:
            self._nodes[node] += 1
        self._tokens += tokens
        self._charge += charge

    def snapshot(self) -> dict[str, Any]:
        """Times in milliseconds, None where nothing ended lately; money in micro-dollars."""
        since = self._clock() - _RECENT_S
        while self._recent and self._recent[0].at < since:
            self._recent.popleft()
        recent = list(self._recent)
        first = [one.first_byte for one in recent if one.first_byte is not None]
        spread = Counter(one.node for one in recent if one.node is not None)
        return {
            "per_second": len(recent) / _RECENT_S,
            "tokens_per_second": sum(one.tokens for one in recent) / _RECENT_S,
            "micros_per_second": sum(one.charge for one in recent) / _RECENT_S,
            "call_ms": _quantiles([one.seconds for one in recent]),
            "first_byte_ms": _quantiles(first),
            "routes_per_second": {node: count / _RECENT_S for node, count in spread.items()},
            "outcomes": dict(self._outcomes),
            "refusals": dict(self._refusals),
            "routed": dict(self._nodes),
            "tokens": self._tokens,
            "charge": self._charge,
        }


def _quantiles(seconds: Sequence[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    ordered = sorted(seconds)
    return {
        f"p{percent}": round(1000.0 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 3)
        for percent in (50, 99)
    }
