"""How much work is put beside running streams: by what steps were seen to take."""

from __future__ import annotations

import pytest

from ostro.engine.pace import Pace

DECODE_S, TOKEN_S = 0.020, 0.001


def learned(slowdown: float) -> Pace:
    pace = Pace(slowdown)
    for _ in range(60):
        pace.note(4, 0, DECODE_S)
        pace.note(4, 8, DECODE_S + 8 * TOKEN_S)
        pace.note(0, 100, 100 * TOKEN_S)
    return pace


@pytest.mark.parametrize("slowdown", [1.05, 1.5, 2.0, 4.0])
def test_a_step_takes_no_longer_than_was_said(slowdown: float) -> None:
    """Prefill and encoding share the time; each alone has all that is planned of it, and makes use of it."""
    pace = learned(slowdown)
    spare = 0.9 * (slowdown - 1) * DECODE_S
    alone = pace.chunk(encoding=False) * TOKEN_S
    assert max(TOKEN_S, spare - TOKEN_S) <= alone <= spare + 1e-9 or alone == TOKEN_S
    assert pace.encode_s(decoding=True, prefilling=False) == pytest.approx(spare)
    both = pace.chunk(encoding=True) * TOKEN_S + pace.encode_s(decoding=True, prefilling=True)
    assert both <= spare + 1e-9 or pace.chunk(encoding=True) == 1
    assert pace.encode_s(decoding=True, prefilling=True) > 0, "however little, or it would never be done"


def test_it_follows_a_machine_that_becomes_slower() -> None:
    pace = learned(2.0)
    before = pace.chunk(encoding=False)
    for _ in range(60):
        pace.note(4, 8, DECODE_S + 8 * 4 * TOKEN_S)
    assert pace.chunk(encoding=False) == pytest.approx(before / 4, abs=1)


def test_before_anything_is_known_little_is_put_beside_streams() -> None:
    pace = Pace(2.0)
    assert pace.chunk(encoding=False) <= 32
    assert pace.encode_s(decoding=True, prefilling=False) <= 0.01 < pace.encode_s(decoding=False, prefilling=False)
