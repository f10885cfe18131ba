"""What a key had in the last minute: the sliding window of its limits.

A second's requests and tokens count together, and leave the window a minute after the second has ended: no 60 seconds
ever hold more than a limit, wherever they begin.
"""

from __future__ import annotations

import msgspec

WINDOW_S = 60

_DECODER = msgspec.json.Decoder(list[tuple[int, int, int]])


class Recent:
    """seconds: (second since the epoch, requests, tokens), in order."""

    def __init__(self, stored: str = "") -> None:
        self.seconds = _DECODER.decode(stored) if stored else []

    def forget(self, now: float) -> None:
        """Drop what has left the window. Where the clock went back, what is ahead of it counts as now."""
        second = int(now)
        kept: list[tuple[int, int, int]] = []
        for at, requests, tokens in self.seconds:
            if at + WINDOW_S < second:
                continue
            if kept and kept[-1][0] >= min(at, second):
                _, before, tokens_before = kept.pop()
                requests, tokens = requests + before, tokens + tokens_before
            kept.append((min(at, second), requests, tokens))
        self.seconds = kept

    @property
    def requests(self) -> int:
        return sum(one[1] for one in self.seconds)

    @property
    def tokens(self) -> int:
        return sum(one[2] for one in self.seconds)

    def add(self, now: float, tokens: int) -> None:
        """One request; `forget` was called with the same `now`."""
        second = int(now)
        if self.seconds and self.seconds[-1][0] == second:
            _, requests, before = self.seconds.pop()
            self.seconds.append((second, requests + 1, before + tokens))
        else:
            self.seconds.append((second, 1, tokens))

    def correct(self, started: float, tokens: int) -> None:
        """The request of that time had so many tokens more, or fewer where negative."""
        for index, (at, requests, before) in enumerate(self.seconds):
            if at == int(started):
                self.seconds[index] = (at, requests, max(0, before + tokens))
                return

    def wait(self, now: float, *, requests: int = 0, tokens: int = 0) -> float:
        """Seconds until so many requests and tokens have left the window."""
        if requests <= 0 and tokens <= 0:
            return 0.0
        leaves = int(now) + WINDOW_S
        for second, had, had_tokens in self.seconds:
            leaves = second + WINDOW_S
            requests, tokens = requests - had, tokens - had_tokens
            if requests <= 0 and tokens <= 0:
                break
        return max(0.0, leaves + 1 - now)

    def stored(self) -> str:
        return msgspec.json.encode(self.seconds).decode()
