"""One scale for a whole matrix: the baseline that groups are measured against, and nothing that is ever stored."""

from __future__ import annotations

import torch

from ostro.compression.checks import require_finite
from ostro.compression.grid import to_levels
from ostro.compression.rounding import fit
from ostro.kernels.packed_linear.layout import Scheme


def per_tensor(weight_OI: torch.Tensor, bits: int, *, name: str = "the matrix", search: bool = False) -> torch.Tensor:
    """weight [O, I] -> the float32 matrix that symmetric codes of one scale leave of it.

    The largest weight decides the scale; with search it is the one of the least squared error, which is as good as
    one scale can be. Takes several times the memory of the matrix.
    """
    require_finite(weight_OI, name, "weights")
    scheme = Scheme(bits, 0)
    values_11S = weight_OI.detach().float().reshape(1, 1, -1)
    scales_11, _ = fit(values_11S, scheme, name=name, search=search)
    levels_11S = to_levels(values_11S, scheme, scales_11[..., None])
    return levels_11S.mul_(scales_11[..., None]).view_as(weight_OI)
