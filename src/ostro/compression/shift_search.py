"""Scales and shifts of groups that have both: minimum to maximum, and least squares from there.

Suffixes: N rows, G groups, S inputs of a group.
"""

from __future__ import annotations

import torch

from ostro.compression.grid import limits, stored, stored_scale, to_levels
from ostro.compression.scale_search import ratios, weighted
from ostro.kernels.packed_linear.layout import Scheme

ROUNDS = 2


def fit_shifted(
    values_NGS: torch.Tensor, scheme: Scheme, importance_GS: torch.Tensor | None = None, *, search: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """values [N, G, S] float32, importance [G, S] -> scales and shifts [N, G] float32, rounded to float16.

    Without search code 0 is the minimum and the largest code the maximum. With search, ranges that are narrower by
    a few ratios are tried too; from each, codes and their best scale and shift are found in turn (Lloyd's
    alternation), and the pair of the least weighted squared error is kept.
    """
    least_NG, most_NG = values_NGS.aminmax(dim=-1)
    best = _spanning(least_NG, most_NG, scheme)
    if not search:
        return best
    error_NG = _error(values_NGS, to_levels(values_NGS, scheme, *_columns(best)), best, importance_GS)
    middle_NG, reach_NG = (most_NG + least_NG) / 2, (most_NG - least_NG) / 2
    for ratio in ratios(scheme.bits, values_NGS.shape[-1]):
        if ratio < 1:
            continue
        tried = _spanning(middle_NG - reach_NG / ratio, middle_NG + reach_NG / ratio, scheme)
        for _ in range(ROUNDS):
            levels_NGS = to_levels(values_NGS, scheme, *_columns(tried))
            tried = _least_squares(values_NGS, levels_NGS, importance_GS)
            tried_NG = _error(values_NGS, levels_NGS, tried, importance_GS)
            better_NG = tried_NG < error_NG
            best = (torch.where(better_NG, tried[0], best[0]), torch.where(better_NG, tried[1], best[1]))
            error_NG = torch.where(better_NG, tried_NG, error_NG)
    return best


def _columns(pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return pair[0][..., None], pair[1][..., None]


def _spanning(least_NG: torch.Tensor, most_NG: torch.Tensor, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor]:
    """The scale is taken from the shift as it is stored, so that the maximum is reached in spite of its rounding."""
    shifts_NG = stored(least_NG)
    return stored_scale((most_NG - shifts_NG) / limits(scheme)[1]), shifts_NG


def _least_squares(
    values_NGS: torch.Tensor, levels_NGS: torch.Tensor, importance_GS: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The line through (level, value); NaN where all levels are alike. The shift makes good the scale's rounding."""
    if importance_GS is None:
        level_NG, value_NG = levels_NGS.mean(-1), values_NGS.mean(-1)
    else:
        total_G = importance_GS.sum(-1)
        level_NG = (levels_NGS * importance_GS).sum(-1) / total_G
        value_NG = (values_NGS * importance_GS).sum(-1) / total_G
    centred_NGS = levels_NGS - level_NG[..., None]
    covariance_NG = (weighted(centred_NGS, importance_GS) * values_NGS).sum(-1)
    scales_NG = stored_scale(covariance_NG / weighted(centred_NGS.square_(), importance_GS).sum(-1))
    return scales_NG, stored(value_NG - scales_NG * level_NG)


def _error(
    values_NGS: torch.Tensor,
    levels_NGS: torch.Tensor,
    pair: tuple[torch.Tensor, torch.Tensor],
    importance_GS: torch.Tensor | None,
) -> torch.Tensor:
    """Overwrites the levels."""
    scales, shifts = _columns(pair)
    left_NGS = levels_NGS.mul_(scales).add_(shifts).sub_(values_NGS).square_()
    return weighted(left_NGS, importance_GS).sum(-1)
