"""What a key may have and may spend, judged while its row is locked. No database here."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from ostro.core.errors import AuthenticationError, OstroError
from ostro.core.money import usd
from ostro.storage.recent import Recent


class NoCreditError(OstroError):
    """The budget of a key does not cover a call."""

    status = 402
    type = "insufficient_quota"
    code = "insufficient_quota"


class RateLimitError(OstroError):
    """A key had all that it may have for now; `retry_after` is in seconds."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after: float, room: Room) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.room = room


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Of a key; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What a key may still have in this minute, and seconds until it may have all again."""

    limits: Limits
    requests_left: int | None
    tokens_left: int | None
    reset_s: float


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """What a call may come to at the most. amount: micro-dollars; tokens: of prompt and answer."""

    call_id: str
    key_id: str
    tenant: str
    model: str
    endpoint: str
    amount: int
    tokens: int
    limits: Limits


class StoredAccount(NamedTuple):
    """What is read of a key."""

    revoked_at: float | None
    expires_at: float | None
    budget: int | None
    spent: int
    reserved: int
    running: int
    recent: str


class Account:
    """A locked row of a key, while a transaction decides."""

    def __init__(self, row: StoredAccount, now: float) -> None:
        self.revoked = row.revoked_at is not None
        self.expired = row.expires_at is not None and row.expires_at <= now
        self.budget = row.budget
        self.spent = row.spent
        self.reserved = row.reserved
        self.running = row.running
        self.recent = Recent(row.recent)
        self.recent.forget(now)

    def reserve(self, hold: Hold, now: float) -> Room | OstroError:
        if self.revoked or self.expired:
            return AuthenticationError(f"The API key has {'been revoked' if self.revoked else 'expired'}.")
        refusal = self._refusal(hold, now)
        if refusal is not None:
            return refusal
        if self.budget is not None and self.spent + self.reserved + hold.amount > self.budget:
            left = self.budget - self.spent - self.reserved
            return NoCreditError(
                f"The call may cost up to ${usd(hold.amount)}, and of the key's budget of ${usd(self.budget)} "
                f"${usd(max(0, left))} are free. Raise the budget, or ask for fewer tokens."
            )
        self.reserved += hold.amount
        self.running += 1
        self.recent.add(now, hold.tokens)
        return self.room(hold.limits, now)

    def _refusal(self, hold: Hold, now: float) -> RateLimitError | None:
        limits, recent = hold.limits, self.recent
        words, wait = "", 1.0
        if limits.concurrency is not None and self.running >= limits.concurrency:
            words = f"{limits.concurrency} calls at a time, and {self.running} run"
        over = 0 if limits.requests_per_minute is None else recent.requests + 1 - limits.requests_per_minute
        if over > 0:
            words, wait = f"{limits.requests_per_minute} requests a minute", recent.wait(now, requests=over)
        over = 0 if limits.tokens_per_minute is None else recent.tokens + hold.tokens - limits.tokens_per_minute
        if over > 0:
            words, wait = f"{limits.tokens_per_minute} tokens a minute", recent.wait(now, tokens=over)
            if limits.tokens_per_minute is not None and hold.tokens > limits.tokens_per_minute:
                words += f", fewer than the up to {hold.tokens} of this request: ask for fewer"
        if not words:
            return None
        return RateLimitError(f"This key may have {words}.", retry_after=wait, room=self.room(limits, now))

    def room(self, limits: Limits, now: float) -> Room:
        requests, tokens = self.recent.requests, self.recent.tokens
        return Room(
            limits=limits,
            requests_left=_left(limits.requests_per_minute, requests),
            tokens_left=_left(limits.tokens_per_minute, tokens),
            reset_s=self.recent.wait(now, requests=requests, tokens=tokens),
        )

    def release(self, held: int, charge: int) -> None:
        self.reserved -= held
        self.running -= 1
        self.spent += charge

    def values(self) -> dict[str, Any]:
        recent = self.recent.stored()
        return {"spent": self.spent, "reserved": self.reserved, "running": self.running, "recent": recent}


def _left(limit: int | None, had: int) -> int | None:
    return None if limit is None else max(0, limit - had)
