"""A circuit breaker: a node that failed several times in a row is left alone for a while. Pure: time is given."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Breaker:
    """failures: so many in a row open it. pause_s: for so long, and then one request may try."""

    failures: int
    pause_s: float
    failed: int = 0
    open_until: float | None = None
    trying: bool = False

    def why_not(self, now: float) -> str | None:
        """What keeps a request away; None where nothing does."""
        if self.open_until is None:
            return None
        if now < self.open_until:
            return f"failed {self.failed} times in a row and is left alone for {self.open_until - now:.1f} s"
        return "failed before and is being tried" if self.trying else None

    def began(self, now: float) -> None:
        """A request is sent. Where the pause is over it is the one that tries."""
        if self.open_until is not None and now >= self.open_until:
            self.trying = True

    def succeeded(self) -> None:
        self.failed, self.open_until, self.trying = 0, None, False

    def failed_now(self, now: float) -> None:
        self.failed += 1
        self.trying = False
        if self.failed >= self.failures:
            self.open_until = now + self.pause_s

    def gave_up(self) -> None:
        """The request that tried ended without a word of the node's: the next one tries."""
        self.trying = False
