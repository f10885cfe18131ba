"""The values that codes stand for: rounding to the nearest of them, and scales as they are stored, in float16."""

from __future__ import annotations

import torch

from ostro.kernels.packed_linear.layout import Scheme, centre

SMALLEST_SCALE = 2.0**-24  # The smallest positive float16.


def stored(values: torch.Tensor) -> torch.Tensor:
    """float32 values as float16 keeps them; what is too large becomes infinite."""
    return values.half().float()


def stored_scale(scales: torch.Tensor) -> torch.Tensor:
    """Like `stored`, but what is not 0 does not become 0, so that the smallest groups are not lost."""
    smallest = torch.full_like(scales, SMALLEST_SCALE).copysign(scales)
    return stored(torch.where((scales != 0) & (scales.abs() < SMALLEST_SCALE), smallest, scales))


def limits(scheme: Scheme) -> tuple[int, int]:
    """The least and the largest level: a code as it is, or less its centre in a symmetric scheme."""
    top = (1 << scheme.bits) - 1
    return (0, top) if scheme.shifted else (-centre(scheme.bits), top - centre(scheme.bits))


def to_levels(
    values: torch.Tensor, scheme: Scheme, scales: torch.Tensor, shifts: torch.Tensor | None = None
) -> torch.Tensor:
    """The nearest levels as float32, in the shape of values; scales and shifts float32, of shapes that broadcast.

    A scale of 0 gives level 0.
    """
    inverse = torch.where(scales == 0, 0.0, 1 / scales)
    scaled = values * inverse if shifts is None else (values - shifts) * inverse
    return scaled.round_().clamp_(*limits(scheme))


def to_codes(levels: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """Levels to codes, uint8."""
    return (levels - limits(scheme)[0]).to(torch.uint8)
