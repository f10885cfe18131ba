"""SmoothQuant (Xiao et al. 2022, arXiv:2211.10438): part of the range of int8 activations is moved to the weights.

Input i is divided by s_i and its weights are multiplied by it, s_i = max |x_i|^alpha / max |w_i|^(1 - alpha), so that
neither side has a few channels that make all others coarse. The paper's kernels have one scale a token, the ones here
one for 32 inputs of a token, so that an outlier makes 31 others coarse at most: what there is to gain is less. The
division is folded into what makes the input: `folding.fold` says how.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ostro.compression.checks import require_finite
from ostro.compression.rounding import round_to_nearest
from ostro.compression.sampling import TOKENS, evenly, sampled_outputs
from ostro.kernels.packed_linear.layout import Scheme
from ostro.kernels.packed_linear.reference import quantise_activations

STEPS = 20
INT8_ROWS = Scheme(8, 0)


def smoothing_scales(
    weights: Sequence[torch.Tensor], activation_max_I: torch.Tensor, alpha: float = 0.5
) -> torch.Tensor:
    """Weights [O, I] that read the same inputs, their largest magnitudes [I] -> scales [I] float32 for the columns.

    1 where an input, or all of its weights, were always 0.
    """
    weight_max_I = torch.stack([weight_OI.detach().abs().amax(0).float() for weight_OI in weights]).amax(0)
    live_I = (activation_max_I > 0) & (weight_max_I > 0)
    scales_I = activation_max_I.float() ** alpha / weight_max_I ** (1 - alpha)
    return torch.where(live_I, scales_I, 1.0)


def search_smoothing(
    weights: Sequence[torch.Tensor],
    inputs_TI: torch.Tensor,
    scheme: Scheme = INT8_ROWS,
    *,
    name: str,
    steps: int = STEPS,
) -> torch.Tensor:
    """The smoothing scales [I] of the alpha = 0, 1 / steps, …, 1 whose int8 outputs are nearest; ones if none helps.

    Weights are rounded to nearest in the scheme, inputs [T, I] to int8 as the kernels do it. At most 512 rows and 1024
    tokens are looked at. Raises CheckpointError for inputs or weights that are NaN or infinite.
    """
    require_finite(inputs_TI, name, "calibration inputs")
    weight_NI, seen_TI = sampled_outputs(weights), evenly(inputs_TI, TOKENS)
    largest_I = inputs_TI.detach().abs().amax(0).float()
    best_I = torch.ones_like(largest_I)
    least = int8_error(weight_NI, seen_TI, best_I, scheme, name)
    for step in range(steps + 1):
        scales_I = smoothing_scales(weights, largest_I, step / steps)
        error = int8_error(weight_NI, seen_TI, scales_I, scheme, name)
        if error < least:
            best_I, least = scales_I, error
    return best_I


def int8_error(
    weight_NI: torch.Tensor, inputs_TI: torch.Tensor, scales_I: torch.Tensor, scheme: Scheme, name: str
) -> float:
    """|x W^T - Q(x / s) Q(W s)^T|^2 over all inputs and outputs."""
    codes = round_to_nearest(weight_NI * scales_I, scheme, name=name)
    outputs_TN = int8_tokens(inputs_TI / scales_I) @ codes.dequantise().T
    return float((inputs_TI @ weight_NI.T - outputs_TN).square().sum(dtype=torch.float64))


def int8_tokens(inputs_TI: torch.Tensor) -> torch.Tensor:
    """What the kernels' int8 codes, of one scale for 32 inputs of a token, leave of the inputs."""
    codes_TBK, scales_TB = quantise_activations(inputs_TI)
    return (codes_TBK * scales_TB[..., None]).flatten(1)[:, : inputs_TI.shape[1]]
