"""How long steps take, and so how much work may be put beside running streams without slowing them too much."""

from __future__ import annotations

# How much a new measurement counts.
_WEIGHT = 0.25
# Before anything was measured: prefill tokens and seconds of encoding beside streams, and seconds where none runs.
_FIRST_TOKENS = 16
_FIRST_S = 0.005
_ALONE_S = 0.05
# Of what streams may be slowed, how much is planned: encoders cool the caches that decoding reads, steps vary.
_PLANNED = 0.9


class Pace:
    """Learns from steps. slowdown: the factor by which streams may be slowed down while media are read; 1 or more.

    Seconds of a step without prefill, and seconds that a prefill token adds to one, are running means.
    """

    def __init__(self, slowdown: float) -> None:
        self._share = _PLANNED * (slowdown - 1)
        self._decode_s: float | None = None
        self._token_s: float | None = None

    def note(self, decoding: int, prefilled: int, seconds: float) -> None:
        """A step took so long. seconds: without what encoders took of it."""
        if decoding and not prefilled:
            self._decode_s = _mean(self._decode_s, seconds)
        elif prefilled:
            base = (self._decode_s or 0.0) if decoding else 0.0
            self._token_s = _mean(self._token_s, max(0.0, seconds - base) / prefilled)

    def chunk(self, *, encoding: bool) -> int:
        """Prefill tokens of media prompts that fit beside streams. encoding: an encoder takes a half."""
        if self._decode_s is None or not self._token_s:
            return _FIRST_TOKENS
        share = self._share / 2 if encoding else self._share
        return max(1, int(share * self._decode_s / self._token_s))

    def encode_s(self, *, decoding: bool, prefilling: bool) -> float:
        """Seconds that encoders may work in a step."""
        if not decoding:
            return _ALONE_S
        if self._decode_s is None:
            return _FIRST_S
        return self._decode_s * (self._share / 2 if prefilling else self._share)


def _mean(old: float | None, new: float) -> float:
    return new if old is None else (1 - _WEIGHT) * old + _WEIGHT * new
