"""Randomness keyed by (seed, position): no state, so batching, preemption and speculation never change a draw."""

from __future__ import annotations

_MASK = (1 << 64) - 1


def _mix(value: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def uniform(seed: int, position: int) -> float:
    """A uniform draw in [0, 1) with 53 bits, a pure function of its arguments."""
    return (_mix(_mix(seed & _MASK) ^ position) >> 11) * 2.0**-53
