"""Quantisation as one would explain it: loops over groups, weights and codes, in double precision."""

from __future__ import annotations

import torch

from ostro.compression.rounding import fit
from ostro.kernels.packed_linear.layout import Scheme, centre


def plain_scale(group: list[float], scheme: Scheme) -> tuple[float, float | None]:
    """(scale, shift) of one group as its extremes decide, each as float16."""
    if scheme.shifted:
        shift = half(min(group))
        return half((max(group) - shift) / (2**scheme.bits - 1)), shift
    peak = max(group, key=abs)
    return half(peak / -centre(scheme.bits)), None


def half(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32).half())


def values_of(scheme: Scheme, scale: float, shift: float | None) -> list[float]:
    """What each code means."""
    codes = range(2**scheme.bits)
    if shift is None:
        return [scale * (code - centre(scheme.bits)) for code in codes]
    return [scale * code + shift for code in codes]


def nearest(weight: float, allowed: list[float]) -> float:
    return min(allowed, key=lambda value: abs(value - weight))


def best_scale_error(group: list[float], scheme: Scheme) -> float:
    """The least squared error that any float16 scale gives a symmetric group, all that could be the best tried."""
    weights = torch.tensor(group, dtype=torch.float64)
    every = torch.arange(1, 0x7C00, dtype=torch.int16).view(torch.float16).double()
    peak = weights.abs().max() / centre(scheme.bits)
    near = every[(every > peak * 0.4) & (every < peak * 1.6)]
    scales = torch.cat((near, -near))[:, None]
    levels = (weights / scales).round().clamp(-centre(scheme.bits), centre(scheme.bits) - 1)
    return float((weights - levels * scales).square().sum(1).min())


def gptq(weight_OI: torch.Tensor, hessian_II: torch.Tensor, scheme: Scheme, damping: float) -> torch.Tensor:
    """Optimal brain quantisation, input by input: the inverse Hessian of the inputs left is taken afresh each time."""
    left_OI = weight_OI.double().clone()
    damped_II = hessian_II.double() + damping * hessian_II.double().diagonal().mean() * torch.eye(len(hessian_II))
    inputs = left_OI.shape[1]
    size = scheme.group_size or inputs
    inverses = [torch.linalg.inv(damped_II[at:, at:]) for at in range(inputs)]
    costs = torch.tensor([1 / float(inverse[0, 0]) for inverse in inverses])
    result_OI = torch.empty_like(left_OI)
    for at in range(inputs):
        if at % size == 0:
            group = slice(at, at + size)
            importance = (costs[group] / costs[group].max())[None].float()
            scales, shifts = fit(left_OI[:, None, group].float(), scheme, importance, name="reference")
        for row in range(len(left_OI)):
            allowed = values_of(scheme, float(scales[row]), None if shifts is None else float(shifts[row]))
            result_OI[row, at] = nearest(float(left_OI[row, at]), allowed)
            error = (left_OI[row, at] - result_OI[row, at]) / inverses[at][0, 0]
            left_OI[row, at:] -= error * inverses[at][0]
    return result_OI
