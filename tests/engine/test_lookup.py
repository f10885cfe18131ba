"""PromptLookup against a naive search through the whole history."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ostro.engine.lookup import NGRAMS, PromptLookup


def naive(tokens: list[int], most: int) -> list[int]:
    """What followed the latest earlier occurrence of the longest ending that has one."""
    for n in NGRAMS:
        if len(tokens) <= n:
            continue
        for end in range(len(tokens) - 1, n - 1, -1):
            if tokens[end - n : end] == tokens[-n:]:
                return tokens[end : end + most]
    return []


# Few distinct tokens, so that everything repeats.
histories = st.lists(st.integers(0, 3), max_size=60)


@given(histories, st.integers(1, 8))
def test_one_proposal(tokens: list[int], most: int) -> None:
    assert PromptLookup().propose(tokens, most) == naive(tokens, most)


@given(histories, st.lists(st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.integers(1, 6))))
def test_proposals_while_the_sequence_grows(tokens: list[int], steps: list[tuple[list[int], int]]) -> None:
    """One index that is kept up to date proposes what a search from scratch finds, however many tokens a step adds."""
    lookup = PromptLookup()
    for new, most in steps:
        tokens = tokens + new
        assert lookup.propose(tokens, most) == naive(tokens, most)
        assert lookup.propose(tokens, most) == naive(tokens, most), "asking twice changes nothing"


def test_plain_examples() -> None:
    assert NGRAMS == (4, 3, 2)
    assert PromptLookup().propose([5, 6, 7, 8, 5, 6], 3) == [7, 8, 5]
    assert PromptLookup().propose([5, 6, 7, 8, 5, 6], 1) == [7]
    # The longest ending wins over a later, shorter one: 1 2 3 was followed by 4, the last 2 3 by 9.
    assert PromptLookup().propose([1, 2, 3, 4, 2, 3, 9, 1, 2, 3], 1) == [4]
    # Of equal ones the latest wins.
    assert PromptLookup().propose([1, 2, 7, 1, 2, 8, 1, 2], 1) == [8]
    assert PromptLookup().propose([1, 2, 3], 4) == []
    assert PromptLookup().propose([], 4) == []
    # A run of one token proposes itself.
    assert PromptLookup().propose([4, 4, 4], 5) == [4]
