"""What an engine counts, and how long its queue will take."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ostro.core.request import EngineStats

# Finishes that the pace of the queue is estimated from.
RECENT = 32


@dataclass
class Counters:
    """Totals since the engine started; they only grow."""

    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    steps: int = 0
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    def finished(self, now: float) -> None:
        self._recent.append(now)

    def drain_estimate(self, waiting: int) -> float:
        """Seconds until half of `waiting` requests are served at the recent pace; 1 to 60."""
        pace = self._pace()
        return 1.0 if pace is None else min(60.0, max(1.0, waiting / 2 / pace))

    def _pace(self) -> float | None:
        """Requests finished a second, lately."""
        if len(self._recent) < 2 or self._recent[-1] <= self._recent[0]:
            return None
        return (len(self._recent) - 1) / (self._recent[-1] - self._recent[0])

    def snapshot(
        self,
        *,
        running: int,
        waiting: int,
        kv_usage: float,
        kv_blocks: int,
        media_queries: int = 0,
        media_hits: int = 0,
    ) -> EngineStats:
        pace = self._pace()
        return EngineStats(
            running=running,
            waiting=waiting,
            kv_usage=kv_usage,
            kv_blocks=kv_blocks,
            prefix_queries=self.prefix_queries,
            prefix_hits=self.prefix_hits,
            preemptions=self.preemptions,
            prompt_tokens=self.prompt_tokens,
            generation_tokens=self.generation_tokens,
            draft_tokens=self.draft_tokens,
            accepted_tokens=self.accepted_tokens,
            media_queries=media_queries,
            media_hits=media_hits,
            steps=self.steps,
            drain_s=None if pace is None else (running + waiting) / pace,
        )
