"""Products with quantised weights as their definition says, in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ostro.kernels.packed_linear.layout import BLOCK, Codes

# Below this a block of activations counts as zero: its scale would be no number that one can divide by.
SMALLEST = 1e-30


def quantise_activations(x_TI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows to int8 by blocks of 32 inputs: codes [T, B, 32] int8 and scales [T, B] float32, B = ceil(I / 32).

    scale = max|x| / 127, code = round(x / scale), ties to even, as in GGUF's Q8_0 but with a float32 scale. A block
    with a NaN or an infinity has the scale NaN.
    """
    rows, inputs = x_TI.shape
    blocks_TBK = F.pad(x_TI.float(), (0, -inputs % BLOCK)).view(rows, -1, BLOCK)
    largest_TB = blocks_TBK.abs().amax(-1)
    finite_TB = blocks_TBK.isfinite().all(-1)
    # A number divided by a tensor is a reciprocal and a product in PyTorch; two tensors are divided.
    inverse_TB = torch.where(finite_TB & (largest_TB > SMALLEST), torch.tensor(127.0) / largest_TB, 0.0)
    codes_TBK = (torch.where(finite_TB[..., None], blocks_TBK, 0.0) * inverse_TB[..., None]).round()
    scales_TB = torch.where(largest_TB > SMALLEST, largest_TB / 127.0, 0.0)
    return codes_TBK.to(torch.int8), torch.where(finite_TB, scales_TB, torch.nan)


def packed_linear(x_TI: torch.Tensor, matrix: Codes) -> torch.Tensor:
    """x [T, I] times the quantised [O, I] -> [T, O] of x's type; activations pass through int8 as in the kernels."""
    if matrix.order_I is not None:
        x_TI = x_TI[:, matrix.order_I.long()]
    codes_TBK, scales_TB = quantise_activations(x_TI)
    seen_TI = (codes_TBK.double() * scales_TB.double()[..., None]).flatten(1)[:, : x_TI.shape[1]]
    sorted_OI = Codes(matrix.scheme, matrix.codes_OI, matrix.scales_OG, matrix.shifts_OG).dequantise()
    return (seen_TI @ sorted_OI.double().T).to(x_TI.dtype)


def gated(x_TI: torch.Tensor, gate: Codes, up: Codes) -> torch.Tensor:
    """silu(x gate^T) * (x up^T), each [O, I] -> [T, O]."""
    return F.silu(packed_linear(x_TI, gate)) * packed_linear(x_TI, up)
