"""Text for calibration and for measuring: cut into windows, and what measures is never what calibrated."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ostro.compression.text import split, spread, windows
from ostro.core.errors import ConfigError


@given(st.integers(2, 200), st.integers(2, 30), st.sampled_from([None, 1]))
def test_windows_hold_the_text_in_order(count: int, length: int, bos: int | None) -> None:
    ids = list(range(100, 100 + count))
    rows_NL = windows([ids[: count // 3], ids[count // 3 :]], length, bos)
    body = length - (bos is not None)
    if count < body:
        assert rows_NL.tolist() == [[*([] if bos is None else [bos]), *ids]]
        return
    assert rows_NL.shape == (count // body, length)
    assert bos is None or bool((rows_NL[:, 0] == bos).all())
    assert rows_NL[:, length - body :].flatten().tolist() == ids[: count // body * body]


@given(st.integers(2, 100))
def test_no_window_both_calibrates_and_measures(count: int) -> None:
    rows_NL = torch.arange(count)[:, None].expand(count, 4)
    calibration_NL, evaluation_NL = split(rows_NL)
    shown, measured = set(calibration_NL[:, 0].tolist()), set(evaluation_NL[:, 0].tolist())
    assert shown
    assert measured
    assert not shown & measured
    assert shown | measured == set(range(count))
    assert len(measured) == max(1, count // 8)


def test_one_window_cannot_be_split() -> None:
    with pytest.raises(ConfigError, match=r"one window of 9 tokens.*--length.*--evaluation"):
        split(torch.zeros(1, 9))


@given(st.integers(1, 100), st.integers(1, 100))
def test_the_windows_that_are_taken_are_spread_over_the_text(count: int, most: int) -> None:
    taken = spread(torch.arange(count)[:, None], most)[:, 0].tolist()
    assert len(taken) == min(count, most)
    assert taken == sorted(set(taken))
    gaps = [after - before for before, after in zip([*taken], [*taken[1:], count], strict=True)]
    assert max(gaps) - min(gaps) <= 1
