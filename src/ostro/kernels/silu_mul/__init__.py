"""silu_mul: silu(gate) * up over a stacked projection."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ostro.kernels.dispatch import NATIVE_DTYPES, native, use_native
from ostro.kernels.silu_mul import reference


def silu_mul(gate_up_T2F: torch.Tensor, parts: Sequence[int] | None = None) -> torch.Tensor:
    """gate_up [T, 2F], the gate in the first half -> [T, F].

    parts: sizes, which make F together, of several projections side by side, each with its own gate and up.
    """
    if use_native(gate_up_T2F) and gate_up_T2F.is_contiguous():
        rows, width = gate_up_T2F.shape[0], gate_up_T2F.shape[1] // 2
        sizes = (width,) if parts is None else parts
        assert sum(sizes) == width, "native code reads by address"
        out_TF = gate_up_T2F.new_empty((rows, width))
        native.silu_mul(NATIVE_DTYPES[gate_up_T2F.dtype], out_TF.data_ptr(), gate_up_T2F.data_ptr(), rows, sizes)
        return out_TF
    return reference.silu_mul(gate_up_T2F, parts)
