"""linear: the dense matrix product y = x W^T.

For float32 PyTorch calls MKL, which on CPUs of other makers than Intel runs at about half the speed of oneDNN's own
kernels; the latter are in PyTorch too, behind the operator that its compiler fuses with, and are called directly.
`python -m benchmarks.linear` measures the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ostro.kernels.linear import reference


def _find_onednn() -> Callable[..., Any] | None:
    """The operator, if this PyTorch has it and a trial product is right."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch has no hints here
        return None
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if operator is None:
        return None
    x, weight = torch.ones(2, 8), torch.arange(24.0).view(3, 8)
    try:
        trial = operator(x, weight, None, "none", [], "")
    except (RuntimeError, NotImplementedError):
        return None
    found: Callable[..., Any] = operator.default
    return found if torch.equal(trial, reference.linear(x, weight)) else None


onednn = _find_onednn()
DTYPES = (torch.float32, torch.bfloat16)


def linear(x_TI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
    """x [T, I], weight [O, I] -> [T, O], of their common type."""
    # Under autocast the two types may differ, which PyTorch's own operator sees to.
    alike = x_TI.dtype in DTYPES and x_TI.dtype == weight_OI.dtype
    if onednn is not None and x_TI.is_cpu and alike and not torch.is_grad_enabled():
        out: torch.Tensor = onednn(x_TI, weight_OI, None, "none", [], "")
        return out
    return reference.linear(x_TI, weight_OI)
