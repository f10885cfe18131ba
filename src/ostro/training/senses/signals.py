"""Series that our own code makes, like a sensor's readings and amounts of transactions: one of a few kinds each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

KINDS = ("steady", "rising", "falling", "oscillating", "spike", "step up", "step down", "noisy burst")
# Noise on top, as a share of the size of the shape; a steady series is nothing but noise.
NOISE = 0.08


def make_signal(kind: str, generator: np.random.Generator, length: int | None = None) -> np.ndarray:
    """A series of that kind, float64 [length], at least six values; of 24 to 96 where no length is given.

    Half are readings around a level of any size, half amounts above zero in whole cents. What tells the kind is the
    shape; noise has at most an eighth of its size.
    """
    if length is None:
        length = int(generator.integers(24, 97))
    shape_N = _SHAPES[kind](np.arange(length) / (length - 1), generator)
    shape_N = shape_N + generator.normal(0, generator.uniform(0.1, 1.0) * NOISE, length)
    size = 10 ** generator.uniform(-2, 4)
    # A steady series is one that moves little for how far from zero it is.
    moves = 0.02 if kind == "steady" else generator.uniform(0.2, 2.0)
    if generator.random() < 0.5:
        level = size * generator.choice([-1.0, 1.0]) * (1.0 if kind == "steady" else generator.uniform(0, 1))
        return np.asarray(level + size * moves * shape_N, dtype=np.float64)
    amounts_N = size * (1 + moves * (shape_N - shape_N.min()))
    return np.asarray((amounts_N * 100).round() / 100 if size >= 1 else amounts_N, dtype=np.float64)


def _steady(at_N: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return generator.normal(0, 1, len(at_N))


def _rising(at_N: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Straight, or bent either way."""
    bent: np.ndarray = at_N ** np.exp(generator.uniform(-0.7, 0.7))
    return bent


def _falling(at_N: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return -_rising(at_N, generator)


def _oscillating(at_N: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Two to six waves, each of six values or more."""
    waves = generator.uniform(2, max(2, min(6, len(at_N) / 6)))
    swing: np.ndarray = 0.5 * np.sin(2 * np.pi * (waves * at_N + generator.random()))
    return swing


def _spike(at_N: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One to three values far off."""
    values = np.zeros(len(at_N))
    width = int(generator.integers(1, 4))
    start = int(generator.integers(1, len(at_N) - width))
    values[start : start + width] = generator.choice([-1.0, 1.0])
    return values


def _step_up(at_N: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return (at_N > generator.uniform(0.25, 0.75)).astype(np.float64)


def _step_down(at_N: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return -_step_up(at_N, generator)


def _burst(at_N: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Quiet, but for a stretch of a fifth to two fifths that is anything but."""
    width = generator.uniform(0.2, 0.4)
    start = generator.uniform(0.05, 0.95 - width)
    within = (at_N >= start) & (at_N < start + width)
    return np.where(within, generator.normal(0, 0.4, len(at_N)), 0.0)


_SHAPES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = dict(
    zip(
        KINDS,
        (_steady, _rising, _falling, _oscillating, _spike, _step_up, _step_down, _burst),
        strict=True,
    )
)
