"""Grouping by correlation: columns are sorted so that those with like magnitudes share a group.

A group's step is set by its largest weights, in each row anew. A column that is large where its neighbours are small
makes them coarse, so columns belong together whose magnitudes rise and fall over the rows in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from ostro.compression.error import squared_error
from ostro.compression.rounding import round_to_nearest
from ostro.compression.sampling import evenly
from ostro.kernels.packed_linear.layout import Codes, Scheme

# A profile is the root mean square of a column in so many runs of rows: 1 sorts columns by size, more also tell those
# apart that are large in different rows. Single weights would be mostly noise.
PROFILES = (1, 8, 64)
ROWS = 512


def correlated_order(
    weight_OI: torch.Tensor, group_size: int, hessian_II: torch.Tensor | None = None, *, name: str = "the matrix"
) -> torch.Tensor:
    """weight [O, I] -> order [I] int32, whose runs of group_size columns are alike.

    Columns are clustered by magnitude profiles of several lengths. Each order is tried on at most 512 rows, and the one
    of the least squared error in 4 bits is returned, which may be the columns as they are. With hessian [I, I]
    (X^T X) columns count as much as their inputs are large, and it is the outputs' error that decides.
    Raises ConfigError where groups do not divide the inputs.
    """
    inputs = weight_OI.shape[1]
    scheme = Scheme(4, group_size)
    scheme.check(inputs, f"'{name}'")
    power_I = None if hessian_II is None else hessian_II.diagonal().float().clamp_min(0)
    sample_NI = evenly(weight_OI, ROWS)
    best_I, least = torch.arange(inputs, device=weight_OI.device), math.inf
    for order_I in (best_I, *_clusterings(weight_OI, group_size or inputs, power_I)):
        codes = quantise_ordered(sample_NI, order_I, scheme, name=name, importance_I=power_I)
        error = squared_error(sample_NI, codes, hessian_II)
        if error < least:
            best_I, least = order_I, error
    return best_I.to(torch.int32)


def _clusterings(weight_OI: torch.Tensor, size: int, power_I: torch.Tensor | None) -> Iterator[torch.Tensor]:
    for runs in PROFILES:
        profile_IP = magnitude_profile(weight_OI, runs)
        yield clustered(profile_IP, size)
        if power_I is not None:
            yield clustered(profile_IP * power_I.sqrt()[:, None], size)


def clustered(profile_IP: torch.Tensor, size: int) -> torch.Tensor:
    """Balanced greedy clustering: the largest column left takes the size - 1 that are nearest to it. -> order [I]."""
    left_I = profile_IP.norm(dim=1).argsort(descending=True, stable=True)
    clusters = []
    while len(left_I):
        distances = (profile_IP[left_I] - profile_IP[left_I[0]]).square().sum(1)
        nearest = distances.argsort(stable=True)
        clusters.append(left_I[nearest[:size]])
        left_I = left_I[nearest[size:].sort().values]
    return torch.cat(clusters)


def magnitude_profile(weight_OI: torch.Tensor, runs: int) -> torch.Tensor:
    """[O, I] -> [I, P], P <= runs: the root mean square of each column in runs of rows of nearly equal length."""
    parts = torch.tensor_split(weight_OI.detach(), min(runs, len(weight_OI)))
    return torch.stack([part.float().square().mean(0).sqrt() for part in parts], dim=1)


def quantise_ordered(
    weight_OI: torch.Tensor,
    order_I: torch.Tensor,
    scheme: Scheme,
    *,
    name: str,
    search: bool = True,
    importance_I: torch.Tensor | None = None,
) -> Codes:
    """`round_to_nearest` of the columns in the order given; the codes keep the order."""
    chosen_I = order_I.long()
    importance_I = None if importance_I is None else importance_I[chosen_I]
    codes = round_to_nearest(weight_OI[:, chosen_I], scheme, name=name, search=search, importance_I=importance_I)
    return Codes(scheme, codes.codes_OI, codes.scales_OG, codes.shifts_OG, order_I.to(torch.int32))
