"""uniform(seed, position): its range, its evenness, and that neighbours know nothing of each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest, pearsonr

from ostro.core.sampling import SEED_BOUND
from ostro.engine.randomness import _mix, uniform

COUNT = 20_000
STREAMS = {
    "positions": [uniform(7, p) for p in range(COUNT)],
    "seeds": [uniform(s, 7) for s in range(COUNT)],
    "negative seeds": [uniform(-s, 7) for s in range(1, COUNT)],
    "large seeds": [uniform(SEED_BOUND - 1 - s, 7) for s in range(COUNT)],
    "diagonal": [uniform(i, i) for i in range(COUNT)],
}


def test_the_finaliser_is_splitmix64() -> None:
    """The first outputs of SplitMix64 seeded with 0, as published with its reference implementation."""
    gamma = 0x9E3779B97F4A7C15
    outputs = [_mix(k * gamma & (2**64 - 1)) for k in range(3)]
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@given(st.integers(-SEED_BOUND, SEED_BOUND - 1), st.integers(0, 2**40))
def test_range_and_purity(seed: int, position: int) -> None:
    value = uniform(seed, position)
    assert 0.0 <= value < 1.0
    assert value == uniform(seed, position)
    assert value * 2**53 == int(value * 2**53)


@pytest.mark.parametrize("name", sorted(STREAMS))
def test_evenness(name: str) -> None:
    values = STREAMS[name]
    assert len(set(values)) == len(values)
    counts, _ = np.histogram(values, bins=100, range=(0, 1))
    assert chisquare(counts).pvalue > 1e-3
    assert kstest(values, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("name", sorted(STREAMS))
@pytest.mark.parametrize("lag", [1, 2, 16])
def test_neighbours_are_independent(name: str, lag: int) -> None:
    values = np.array(STREAMS[name])
    assert pearsonr(values[:-lag], values[lag:]).pvalue > 1e-3
    pairs, _, _ = np.histogram2d(values[:-lag], values[lag:], bins=10, range=((0, 1), (0, 1)))
    assert chisquare(pairs.ravel()).pvalue > 1e-3


def test_streams_of_neighbouring_seeds_are_independent() -> None:
    """Not shifted copies of each other either, as keys of the form seed + position would be."""
    streams = [[uniform(seed, p) for p in range(2000)] for seed in range(4)]
    for i in range(4):
        for j in range(i):
            assert pearsonr(streams[i], streams[j]).pvalue > 1e-3
            assert not set(streams[i]) & set(streams[j])
