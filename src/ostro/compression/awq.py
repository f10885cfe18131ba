"""AWQ (Lin et al. 2023, arXiv:2306.00978): inputs that are large get weights that are finely rounded.

Input i's weights are multiplied by a scale s_i before they are rounded, and the input is divided by it, which leaves
the output as it is: (x / s) Q(W s)^T. A large s_i lets the weights of input i fill more of their group's range. The
division is folded into what makes the input: `folding.fold` says how.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ostro.compression.checks import require_finite
from ostro.compression.rounding import round_to_nearest
from ostro.compression.sampling import TOKENS, evenly, sampled_outputs
from ostro.kernels.packed_linear.layout import Scheme

STEPS = 20


def search_scales(
    weights: Sequence[torch.Tensor], inputs_TI: torch.Tensor, scheme: Scheme, *, name: str, steps: int = STEPS
) -> torch.Tensor:
    """Weights [O, I] that read the same inputs [T, I] -> scales [I] float32 to multiply their columns by.

    Of s = (mean |x|)^alpha, alpha = 0, 1 / steps, …, 1, the one with the least squared error of the outputs, the
    weights rounded to nearest with scale search; ones where none is better than alpha = 0. At most 512 rows and 1024
    tokens are looked at. Raises CheckpointError for inputs or weights that are NaN or infinite.
    """
    require_finite(inputs_TI, name, "calibration inputs")
    weight_NI, seen_TI = sampled_outputs(weights), evenly(inputs_TI, TOKENS)
    mean_I = inputs_TI.detach().abs().mean(0, dtype=torch.float32)
    best_I = torch.ones_like(mean_I)
    least = None
    for step in range(steps + 1):
        scales_I = _scales(mean_I, step / steps)
        error = rounding_error(weight_NI, seen_TI, scales_I, scheme, name)
        if least is None or error < least:
            best_I, least = scales_I, error
    return best_I


def rounding_error(
    weight_NI: torch.Tensor, inputs_TI: torch.Tensor, scales_I: torch.Tensor, scheme: Scheme, name: str
) -> float:
    """|x W^T - (x / s) Q(W s)^T|^2 over all inputs and outputs."""
    codes = round_to_nearest(weight_NI * scales_I, scheme, name=name)
    difference_NI = weight_NI - codes.dequantise() / scales_I
    return float((inputs_TI @ difference_NI.T).square().sum(dtype=torch.float64))


def _scales(mean_I: torch.Tensor, alpha: float) -> torch.Tensor:
    """mean^alpha with 1 in the middle of its range, so that weights stay about as large as they were.

    An input that was always 0 gets 1: nothing is known about it.
    """
    live_I = mean_I > 0
    if not live_I.any():
        return torch.ones_like(mean_I)
    logs_I = torch.where(live_I, mean_I, 1.0).log()
    low, high = logs_I[live_I].aminmax()
    return torch.where(live_I, (alpha * (logs_I - (low + high) / 2)).exp(), 1.0)
