"""How far codes are from the weights they stand for."""

from __future__ import annotations

import math

import torch

from ostro.kernels.packed_linear.layout import Codes

SLICE = 1 << 20


def squared_error(weight_OI: torch.Tensor, codes: Codes, hessian_II: torch.Tensor | None = None) -> float:
    """tr((W - Q) H (W - Q)^T): the squared error of the outputs over the inputs that H = X^T X was taken from.

    Without a Hessian H is the identity: the squared error of the weights.
    """
    return _measure(weight_OI, codes, hessian_II)[0]


def relative_error(weight_OI: torch.Tensor, codes: Codes, hessian_II: torch.Tensor | None = None) -> float:
    """The root of `squared_error` in parts of that of a layer of zeros; 0 where the layer gives 0 anyway."""
    error, power = _measure(weight_OI, codes, hessian_II)
    return math.sqrt(error / power) if power > 0 else 0.0


def _measure(weight_OI: torch.Tensor, codes: Codes, hessian_II: torch.Tensor | None) -> tuple[float, float]:
    """(of the difference, of the weight), row slice by row slice."""
    error = power = 0.0
    step = max(1, SLICE // weight_OI.shape[1])
    for start in range(0, len(weight_OI), step):
        rows = slice(start, start + step)
        weight_NI = weight_OI[rows].detach().float()
        error += _energy(weight_NI - rows_of(codes, rows).dequantise(), hessian_II)
        power += _energy(weight_NI, hessian_II)
    return error, power


def _energy(rows_NI: torch.Tensor, hessian_II: torch.Tensor | None) -> float:
    seen_NI = rows_NI if hessian_II is None else rows_NI @ hessian_II.float()
    # A Hessian that is not quite positive must not make an error negative.
    return max(0.0, float((seen_NI * rows_NI).sum(dtype=torch.float64)))


def rows_of(codes: Codes, rows: slice) -> Codes:
    """The codes of some outputs, without copying them."""
    shifts_OG = None if codes.shifts_OG is None else codes.shifts_OG[rows]
    return Codes(codes.scheme, codes.codes_OI[rows], codes.scales_OG[rows], shifts_OG, codes.order_I)
