"""Speculation by prompt lookup: what followed the last few tokens the last time they occurred.

Drafts are checked against the very tokens that sampling with the sequence's own randomness gives, so the output is
the same token for token as without them (a deterministic draft accepted with the probability the model gives it is
speculative sampling, Leviathan et al. 2022, arXiv:2211.17192).
"""

from __future__ import annotations

# Longest match first: the longer it is, the likelier the same continuation.
NGRAMS = (4, 3, 2)


class PromptLookup:
    """An index of one sequence's n-grams, kept up to date in constant time a token."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def propose(self, tokens: list[int], most: int) -> list[int]:
        """Up to `most` tokens that may follow `tokens`; empty where nothing matches."""
        found = self._find(tokens)
        return [] if found is None else tokens[found : found + most]

    def _find(self, tokens: list[int]) -> int | None:
        # The n-grams that end at the newest token are looked up before they are entered themselves.
        self._index(tokens, len(tokens) - 1)
        matches = (self._ends.get(tuple(tokens[-n:])) for n in NGRAMS if len(tokens) > n)
        return next((end for end in matches if end is not None), None)

    def _index(self, tokens: list[int], stop: int) -> None:
        """Enter every n-gram that ends before position `stop`, with the position that follows it."""
        for end in range(self._indexed + 1, stop + 1):
            for n in NGRAMS:
                if end >= n:
                    self._ends[tuple(tokens[end - n : end])] = end
        self._indexed = max(self._indexed, stop)
