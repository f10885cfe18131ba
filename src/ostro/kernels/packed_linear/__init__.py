"""packed_linear: products with int4 and int8 weights, activations in int8 by blocks of 32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ostro.kernels.dispatch import NATIVE_DTYPES, native
from ostro.kernels.packed_linear import reference
from ostro.kernels.packed_linear.layout import Packed, unpack


class PackedMatrices:
    """Quantised matrices [O_i, I] stacked to one layer [sum O_i, I]; each may have a scheme and an order of its own.

    Keeps the tensors alive and the native layer that reads them, `native` (None without native code). On the CPU only.
    """

    def __init__(self, parts: Sequence[Packed]) -> None:
        assert parts
        self.parts = tuple(parts)
        self.in_features = parts[0].in_features
        self.out_features = sum(part.out_features for part in parts)
        first = parts[0]
        self.can_gate = len(parts) == 2 and all(
            part.scheme == first.scheme and part.out_features == first.out_features and part.order is None
            for part in parts
        )
        for part in parts:
            _check(part, self.in_features)
        self.native = None if native is None else native.PackedLinear(self.in_features)
        if self.native is not None:
            for part in parts:
                self.native.add(
                    part.panels.data_ptr(),
                    part.scales.data_ptr(),
                    0 if part.shifts is None else part.shifts.data_ptr(),
                    0 if part.order is None else part.order.data_ptr(),
                    part.out_features,
                    part.scheme.bits,
                    part.scheme.group_size,
                )

    def linear(self, x_TI: torch.Tensor) -> torch.Tensor:
        """x [T, I], float32 or bfloat16 -> [T, sum O]. A gradient to x goes through the weights as they are meant, with
        activations that are not rounded: rounding has none."""
        assert x_TI.shape[1] == self.in_features
        if torch.is_grad_enabled() and x_TI.requires_grad:
            return torch.cat([F.linear(x_TI, unpack(part).dequantise().to(x_TI.dtype)) for part in self.parts], dim=1)
        if self.native is None or x_TI.dtype not in NATIVE_DTYPES or x_TI.stride(1) != 1:
            return torch.cat([reference.packed_linear(x_TI, unpack(part)) for part in self.parts], dim=1)
        rows = x_TI.shape[0]
        out_TO = torch.empty((rows, self.out_features), dtype=x_TI.dtype)
        self.native.matmul(NATIVE_DTYPES[x_TI.dtype], out_TO.data_ptr(), x_TI.data_ptr(), x_TI.stride(0), rows)
        return out_TO

    def gated(self, x_TI: torch.Tensor) -> torch.Tensor:
        """Of two equal matrices, gate and up: silu(x gate^T) * (x up^T), [T, I] -> [T, O]. Only where `can_gate`."""
        assert self.can_gate
        assert x_TI.shape[1] == self.in_features
        if torch.is_grad_enabled() and x_TI.requires_grad:
            gate_TO, up_TO = self.linear(x_TI).chunk(2, dim=1)
            return F.silu(gate_TO) * up_TO
        if self.native is None or x_TI.dtype not in NATIVE_DTYPES or x_TI.stride(1) != 1:
            return reference.gated(x_TI, *(unpack(part) for part in self.parts))
        rows = x_TI.shape[0]
        out_TO = torch.empty((rows, self.out_features // 2), dtype=x_TI.dtype)
        self.native.gated(NATIVE_DTYPES[x_TI.dtype], out_TO.data_ptr(), x_TI.data_ptr(), x_TI.stride(0), rows)
        return out_TO

    def lookup(self, ids_T: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Rows of a single matrix, dequantised: ids [T] int64, in range -> [T, I]."""
        assert len(self.parts) == 1
        if self.native is None or dtype not in NATIVE_DTYPES:
            return unpack(self.parts[0]).dequantise()[ids_T].to(dtype)
        assert ids_T.dtype == torch.int64
        assert ids_T.is_contiguous()
        out_TI = torch.empty((ids_T.shape[0], self.in_features), dtype=dtype)
        self.native.lookup(NATIVE_DTYPES[dtype], out_TI.data_ptr(), ids_T.data_ptr(), ids_T.shape[0])
        return out_TI


def _check(part: Packed, in_features: int) -> None:
    """What native code reads by address must be as it believes."""
    part.scheme.check(part.in_features, "A matrix")
    codes_shape, scales_shape = part.scheme.shapes(part.out_features, part.in_features)
    assert part.in_features == in_features
    assert part.panels.dtype == torch.uint8
    assert tuple(part.panels.shape) == codes_shape
    assert (part.shifts is not None) == part.scheme.shifted
    for values in (part.scales, part.shifts):
        if values is not None:
            assert values.dtype == torch.float16
            assert tuple(values.shape) == scales_shape
            assert values.is_contiguous()
    assert part.panels.is_contiguous()
    if part.order is not None:
        assert part.order.dtype == torch.int32
        assert part.order.is_contiguous()
        assert tuple(part.order.shape) == (in_features,)
