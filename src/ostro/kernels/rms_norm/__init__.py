"""rms_norm: y = x / sqrt(mean(x^2) + eps) * weight, alone or after a residual sum."""

from __future__ import annotations

import torch

from ostro.kernels.dispatch import NATIVE_DTYPES, native, use_native
from ostro.kernels.rms_norm import reference


def rms_norm(x_TD: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalise each row. x [T, D], weight [D] -> [T, D] of x's dtype; computed in float32."""
    if use_native(x_TD, weight_D) and x_TD.is_contiguous() and weight_D.is_contiguous():
        assert weight_D.shape == x_TD.shape[1:]
        out_TD = torch.empty_like(x_TD)
        native.rms_norm(
            NATIVE_DTYPES[x_TD.dtype],
            out_TD.data_ptr(),
            x_TD.data_ptr(),
            0,
            weight_D.data_ptr(),
            *x_TD.shape,
            eps,
        )
        return out_TD
    return reference.rms_norm(x_TD, weight_D, eps)


def add_rms_norm(
    x_TD: torch.Tensor, branch_TD: torch.Tensor, weight_D: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Residual sum, then norm: (x + branch, rms_norm(x + branch)). May overwrite x where no gradient is needed."""
    contiguous = x_TD.is_contiguous() and branch_TD.is_contiguous() and weight_D.is_contiguous()
    if use_native(x_TD, branch_TD, weight_D) and contiguous:
        assert branch_TD.shape == x_TD.shape
        assert weight_D.shape == x_TD.shape[1:]
        out_TD = torch.empty_like(x_TD)
        native.rms_norm(
            NATIVE_DTYPES[x_TD.dtype],
            out_TD.data_ptr(),
            x_TD.data_ptr(),
            branch_TD.data_ptr(),
            weight_D.data_ptr(),
            *x_TD.shape,
            eps,
        )
        return x_TD, out_TD
    sum_TD = x_TD + branch_TD
    return sum_TD, reference.rms_norm(sum_TD, weight_D, eps)
