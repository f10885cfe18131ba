"""One sequence on its way through the engine."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right

from ostro.core.request import EngineRequest
from ostro.engine.lookup import PromptLookup


class Sequence:
    """Tokens known so far (prompt, then output), how many of them are in the cache, and where.

    tables: one list of blocks a cache group. slot: the row of the block tables it runs in, None while it waits.
    key: order among waiting and running; smaller goes first. It never changes: priority minus age over
    `ageing_s` differs from it by the same amount for everybody at any moment.
    """

    __slots__ = (
        "_digests",
        "cached",
        "committed",
        "computed",
        "deadline",
        "done",
        "drafts",
        "key",
        "lookup",
        "num_prompt",
        "request",
        "slot",
        "stop_ids",
        "tables",
        "tokens",
        "was_scheduled",
    )

    def __init__(self, request: EngineRequest, now: float, ageing_s: float, order: int, groups: int) -> None:
        self.request = request
        self.tokens = list(request.prompt_token_ids)
        self.num_prompt = len(self.tokens)
        self.computed = 0
        self.committed = 0
        self.cached = 0
        self.slot: int | None = None
        self.tables: list[list[int]] = [[] for _ in range(groups)]
        self.drafts: list[int] = []
        self.lookup: PromptLookup | None = None
        self.key = (request.priority + now / ageing_s, order)
        self.deadline = None if request.timeout_s is None else now + request.timeout_s
        self.stop_ids = frozenset(request.stop_token_ids)
        self.was_scheduled = False
        self.done = False
        self._digests: list[bytes] = []

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def reads_whole_prompt(self) -> bool:
        """Whether every prompt token's hidden state is wanted, so that none may come from the prefix cache."""
        request = self.request
        return request.pooling == "mean" or request.params.prompt_logprobs is not None or request.inspect

    @property
    def decoding(self) -> bool:
        """Whether all but its newest token are in the cache."""
        return self.computed == len(self.tokens) - 1 and self.num_output > 0

    def digest(self, index: int, block_size: int) -> bytes:
        """The identity of block `index`: its parent's, its tokens, its media, the adapter and the tenant's salt."""
        while len(self._digests) <= index:
            at = len(self._digests)
            parent = self._digests[-1] if at else self._root()
            start, stop = at * block_size, (at + 1) * block_size
            assert stop <= len(self.tokens)
            state = hashlib.blake2b(parent, digest_size=16)
            state.update(array("q", self.tokens[start:stop]).tobytes())
            spans = self.request.spans
            for span in spans[bisect_right(spans, start, key=lambda one: one.stop) :]:
                if span.start >= stop:
                    break
                state.update(f"|{span.start - start}:{span.length}:{span.offset}:{span.digest}".encode())
            self._digests.append(state.digest())
        return self._digests[index]

    def _root(self) -> bytes:
        identity = repr((self.request.adapter_id, self.request.salt)).encode()
        return hashlib.blake2b(identity, digest_size=16).digest()
