"""How a layer holds its matrices: dense, or quantised in panels. A format owns the layout; nothing else knows it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from ostro.kernels.linear import linear
from ostro.kernels.packed_linear import PackedMatrices
from ostro.kernels.packed_linear.layout import Packed, unpack
from ostro.kernels.silu_mul import silu_mul


class WeightFormat(ABC):
    """The matrices [O_i, I] of one layer, stacked in the order of their names."""

    name: ClassVar[str]

    @abstractmethod
    def linear(self, x_TI: torch.Tensor) -> torch.Tensor:
        """x [T, I] -> [T, sum O_i]."""

    def gated(self, x_TI: torch.Tensor) -> torch.Tensor:
        """Of two matrices, gate and up: silu(x gate^T) * (x up^T)."""
        return silu_mul(self.linear(x_TI))

    @abstractmethod
    def dense(self, name: str) -> torch.Tensor:
        """One matrix as it multiplies, [O, I] in float; a copy where the format is not dense."""

    @abstractmethod
    def size(self) -> tuple[int, int]:
        """How many weights there are, and how many bytes they take."""


class Dense(WeightFormat):
    """One float tensor, a parameter of the module, so that it moves and is trained with it."""

    name = "dense"

    def __init__(self, weight: nn.Parameter, slices: Mapping[str, tuple[int, int]]) -> None:
        self._weight = weight
        self._slices = slices

    def linear(self, x_TI: torch.Tensor) -> torch.Tensor:
        return linear(x_TI, self._weight)

    def dense(self, name: str) -> torch.Tensor:
        start, stop = self._slices[name]
        return self._weight.data[start:stop]

    def size(self) -> tuple[int, int]:
        return self._weight.numel(), self._weight.numel() * self._weight.element_size()


class Quantised(WeightFormat):
    """Matrices in panels; single ones may be dense. Neighbours that are in panels are one product."""

    name = "quantised"

    def __init__(self, matrices: Mapping[str, Packed | torch.Tensor]) -> None:
        self._matrices = dict(matrices)
        self._runs: list[PackedMatrices | torch.Tensor] = []
        waiting: list[Packed] = []
        for matrix in (*self._matrices.values(), None):
            if isinstance(matrix, Packed):
                waiting.append(matrix)
                continue
            if waiting:
                self._runs.append(PackedMatrices(waiting))
                waiting = []
            if matrix is not None:
                self._runs.append(matrix)
        first = self._runs[0]
        # Set where the whole layer is one product.
        self.product = first if isinstance(first, PackedMatrices) and len(self._runs) == 1 else None

    def linear(self, x_TI: torch.Tensor) -> torch.Tensor:
        outs = [run.linear(x_TI) if isinstance(run, PackedMatrices) else linear(x_TI, run) for run in self._runs]
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)

    def gated(self, x_TI: torch.Tensor) -> torch.Tensor:
        if self.product is None or not self.product.can_gate:
            return super().gated(x_TI)
        return self.product.gated(x_TI)

    def lookup(self, ids_T: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        assert self.product is not None
        return self.product.lookup(ids_T, dtype)

    def packed(self, name: str) -> Packed | torch.Tensor:
        """One matrix as it is held."""
        return self._matrices[name]

    def dense(self, name: str) -> torch.Tensor:
        matrix = self._matrices[name]
        return unpack(matrix).dequantise() if isinstance(matrix, Packed) else matrix

    def size(self) -> tuple[int, int]:
        weights = taken = 0
        for matrix in self._matrices.values():
            if isinstance(matrix, Packed):
                weights += matrix.out_features * matrix.in_features
                taken += matrix.bytes
            else:
                weights += matrix.numel()
                taken += matrix.numel() * matrix.element_size()
        return weights, taken
