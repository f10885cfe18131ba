"""Round to nearest: each weight becomes the nearest value that its group's scale and shift allow."""

from __future__ import annotations

import torch

from ostro.compression.checks import require_finite, require_storable
from ostro.compression.grid import to_codes, to_levels
from ostro.compression.scale_search import fit_scales
from ostro.compression.shift_search import fit_shifted
from ostro.kernels.packed_linear.layout import Codes, Scheme

# Rows are worked on in slices of about so many weights: a slice and what is derived from it stay in the cache.
SLICE = 1 << 17


def round_to_nearest(
    weight_OI: torch.Tensor,
    scheme: Scheme,
    *,
    name: str,
    search: bool = True,
    importance_I: torch.Tensor | None = None,
) -> Codes:
    """weight [O, I], of any floating type, to codes.

    search: look for the scales (and shifts) of the least squared error; otherwise the extremes of a group decide.
    importance_I: what an input's squared error counts, for instance the mean square of the input; only search uses
    it. name: what errors call the matrix. Raises ConfigError where groups do not divide the inputs, CheckpointError
    for weights that are NaN, infinite or too large for a float16 scale.
    """
    outputs, inputs = weight_OI.shape
    scheme.check(inputs, f"'{name}'")
    require_finite(weight_OI, name, "weights")
    groups = scheme.groups(inputs)
    importance_GS = None if importance_I is None else relative_importance(importance_I, groups, name)
    codes_OI = torch.empty(outputs, inputs, dtype=torch.uint8, device=weight_OI.device)
    scales_OG = torch.empty(outputs, groups, dtype=torch.float16, device=weight_OI.device)
    shifts_OG = torch.empty_like(scales_OG) if scheme.shifted else None
    step = max(1, SLICE // inputs)
    for start in range(0, outputs, step):
        rows = slice(start, start + step)
        values_NGS = weight_OI[rows].detach().float().reshape(-1, groups, inputs // groups)
        scales_NG, shifts_NG = fit(values_NGS, scheme, importance_GS, name=name, search=search)
        columns = None if shifts_NG is None else shifts_NG[..., None]
        levels_NGS = to_levels(values_NGS, scheme, scales_NG[..., None], columns)
        codes_OI[rows] = to_codes(levels_NGS, scheme).view(-1, inputs)
        scales_OG[rows] = scales_NG.half()
        if shifts_OG is not None and shifts_NG is not None:
            shifts_OG[rows] = shifts_NG.half()
    return Codes(scheme, codes_OI, scales_OG, shifts_OG)


def fit(
    values_NGS: torch.Tensor,
    scheme: Scheme,
    importance_GS: torch.Tensor | None = None,
    *,
    name: str,
    search: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """values [N, G, S] float32 -> scales [N, G] and, where the scheme has them, shifts [N, G]; float32 as stored."""
    if scheme.shifted:
        scales_NG, shifts_NG = fit_shifted(values_NGS, scheme, importance_GS, search=search)
        require_storable(shifts_NG, name)
    else:
        scales_NG, shifts_NG = fit_scales(values_NGS, scheme, importance_GS, search=search), None
    require_storable(scales_NG, name)
    return scales_NG, shifts_NG


def relative_importance(importance_I: torch.Tensor, groups: int, name: str) -> torch.Tensor:
    """importance [I] -> [G, S], at most 1 in each group; a group that does not count at all is taken as it is."""
    require_finite(importance_I, name, "importances")
    assert not (importance_I < 0).any()
    importance_GS = importance_I.float().view(groups, -1)
    most_G1 = importance_GS.amax(-1, keepdim=True)
    return torch.where(most_G1 > 0, importance_GS / most_G1, 1.0)
