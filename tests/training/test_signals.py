"""Series that are made are of their kind: a slow reader that looks at the numbers names most of them rightly."""

from __future__ import annotations

import numpy as np
import pytest

from ostro.training.senses.signals import KINDS, make_signal


@pytest.mark.parametrize("kind", KINDS)
def test_series_are_finite_varied_and_a_function_of_the_seed(kind: str) -> None:
    lengths, sizes = set(), []
    for seed in range(60):
        one, again = (make_signal(kind, np.random.default_rng(seed)) for _ in range(2))
        np.testing.assert_array_equal(one, again)
        assert one.dtype == np.float64
        assert np.isfinite(one).all()
        lengths.add(len(one))
        sizes.append(np.abs(one).max())
    assert min(lengths) >= 24
    assert max(lengths) <= 96
    assert max(sizes) / min(sizes) > 100, "of any scale"
    assert len(make_signal(kind, np.random.default_rng(0), 7)) == 7


def read(values: np.ndarray) -> str:
    """By hand: the kind whose plainest shape explains most of a series."""
    values = (values - values.mean()) / max(values.std(), 1e-12)
    count = len(values)
    at = np.arange(count)
    if np.sort(np.abs(values))[-4] < 0.6 * np.abs(values).max() and np.abs(values).max() > 2.4:
        peak = int(np.abs(values).argmax())
        near = values[max(0, peak - 3) : peak + 4]
        if np.abs(np.delete(values, range(max(0, peak - 3), min(count, peak + 4)))).max() < 0.5 * np.abs(near).max():
            return "spike"
    line = np.corrcoef(at, values)[0, 1]
    best, gap = 0.0, 0.0
    for cut in range(3, count - 3):
        before, after = values[:cut], values[cut:]
        left = (before.var() * cut + after.var() * (count - cut)) / count
        if 1 - left > best:
            best, gap = 1 - left, after.mean() - before.mean()
    if best > max(line**2, 0.6) + 0.03 and best > 0.85:
        return "step up" if gap > 0 else "step down"
    if line**2 > 0.6:
        return "rising" if line > 0 else "falling"
    power = np.abs(np.fft.rfft(values)) ** 2
    if power[1:9].sum() > 0.7 * power.sum():
        return "oscillating"
    window = max(4, count // 6)
    spreads = [values[i : i + window].std() for i in range(count - window)]
    return "noisy burst" if max(spreads) > 3.5 * np.median(spreads) or min(spreads) < 0.25 else "steady"


def test_most_kinds_can_be_told_by_looking() -> None:
    made = {kind: [make_signal(kind, np.random.default_rng(seed)) for seed in range(60)] for kind in KINDS}
    right = {kind: np.mean([read(values) == kind for values in made[kind]]) for kind in KINDS}
    assert min(right.values()) > 0.6, right
    assert np.mean(list(right.values())) > 0.85, right
