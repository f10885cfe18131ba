"""Scales of symmetric groups: the one that the largest weight asks for, and a search for a better one.

Suffixes: N rows, G groups, S inputs of a group.
"""

from __future__ import annotations

import torch

from ostro.compression.grid import limits, stored_scale, to_levels
from ostro.kernels.packed_linear.layout import Scheme

# Where the largest weight may land, in parts of the lowest level: beyond 1 it is clipped, and the others gain.
RATIOS = {
    4: tuple(0.89 + 0.0525 * step for step in range(9)),
    8: (0.99, 0.995, 1.0, 1.005, 1.01, 1.02, 1.04, 1.08),
}
# The more weights share a scale, the further the largest is from the rest. Groups of this size need no more ratios.
SMALL_GROUP = 256
STEP = 1.2


def ratios(bits: int, group: int) -> tuple[float, ...]:
    """The ratios to try, in rising order."""
    found = list(RATIOS[bits])
    while group > SMALL_GROUP and found[-1] < group**0.25:
        found.append(found[-1] * STEP)
    return tuple(found)


def weighted(values_NGS: torch.Tensor, importance_GS: torch.Tensor | None) -> torch.Tensor:
    return values_NGS if importance_GS is None else values_NGS * importance_GS


def fit_scales(
    values_NGS: torch.Tensor, scheme: Scheme, importance_GS: torch.Tensor | None = None, *, search: bool = True
) -> torch.Tensor:
    """values [N, G, S] float32, importance [G, S] -> scales [N, G] float32, rounded to float16.

    Without search the largest magnitude becomes the lowest level, as in GGUF's Q4_0, so a scale may be negative.
    With search that is where it starts: each ratio gives levels, the levels a scale by least squares (rounded as
    it is stored), and the scale of the least weighted squared error is kept.
    """
    low, _ = limits(scheme)
    least_NG, most_NG = values_NGS.aminmax(dim=-1)
    peak_NG = torch.where(-least_NG > most_NG, least_NG, most_NG)
    best_NG = stored_scale(peak_NG / low)
    if not search:
        return best_NG
    weighted_NGS = weighted(values_NGS, importance_GS)
    error_NG = _error(values_NGS, to_levels(values_NGS, scheme, best_NG[..., None]), best_NG, importance_GS)
    for ratio in (*ratios(scheme.bits, values_NGS.shape[-1]), None):
        start_NG = best_NG if ratio is None else stored_scale(peak_NG / (low * ratio))
        levels_NGS = to_levels(values_NGS, scheme, start_NG[..., None])
        fitted_NG = _least_squares(weighted_NGS, levels_NGS, importance_GS)
        tried_NG = _error(values_NGS, levels_NGS, fitted_NG, importance_GS)
        better_NG = tried_NG < error_NG
        best_NG = torch.where(better_NG, fitted_NG, best_NG)
        error_NG = torch.where(better_NG, tried_NG, error_NG)
    return best_NG


def _least_squares(
    weighted_NGS: torch.Tensor, levels_NGS: torch.Tensor, importance_GS: torch.Tensor | None
) -> torch.Tensor:
    """The scale that minimises the weighted squares of value - scale * level; NaN where all levels are 0."""
    product_NG = (weighted_NGS * levels_NGS).sum(-1)
    return stored_scale(product_NG / weighted(levels_NGS.square(), importance_GS).sum(-1))


def _error(
    values_NGS: torch.Tensor, levels_NGS: torch.Tensor, scales_NG: torch.Tensor, importance_GS: torch.Tensor | None
) -> torch.Tensor:
    """Overwrites the levels."""
    left_NGS = levels_NGS.mul_(scales_NG[..., None]).sub_(values_NGS).square_()
    return weighted(left_NGS, importance_GS).sum(-1)
