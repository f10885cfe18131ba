"""The one linear layer: matrices in some format, possibly several projections stacked, with named slices."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import nn

from ostro.kernels.packed_linear.layout import Packed
from ostro.models.layers.formats import Dense, Quantised, WeightFormat


class Bias(nn.Module):
    """What is added to the outputs of some slices of a linear layer."""

    def __init__(self, slices: Mapping[str, tuple[int, int]]) -> None:
        super().__init__()
        self._slices = slices
        self._parts: dict[str, tuple[int, int]] = {}
        at = 0
        for name, (start, stop) in slices.items():
            self._parts[name] = (at, at + stop - start)
            at += stop - start
        self.weight = nn.Parameter(torch.empty(at))

    def forward(self, y_TO: torch.Tensor) -> torch.Tensor:
        if y_TO.shape[1] == self.weight.shape[0]:
            return y_TO + self.weight
        whole_O = y_TO.new_zeros(y_TO.shape[1])
        for name, (start, stop) in self._slices.items():
            at, end = self._parts[name]
            whole_O[start:stop] = self.weight[at:end]
        return y_TO + whole_O

    def part(self, name: str | None) -> torch.Tensor:
        start, stop = (0, self.weight.shape[0]) if name is None else self._parts[name]
        return self.weight.data[start:stop]


class Linear(nn.Module):
    """y = x W^T; the family's decoders have no bias, some of its encoders do.

    slices: name -> output features, in stacking order; adapters, quantisation and sharding bind to these names.
    bias: True for all slices, or the names of those that have one.
    Made dense; `quantise` turns it into another format before its weights are loaded.
    """

    def __init__(
        self, in_features: int, slices: Mapping[str, int] | int, *, bias: bool | Collection[str] = False
    ) -> None:
        super().__init__()
        sizes = {"": slices} if isinstance(slices, int) else dict(slices)
        self.in_features = in_features
        self.out_features = sum(sizes.values())
        starts: dict[str, tuple[int, int]] = {}
        at = 0
        for name, size in sizes.items():
            starts[name] = (at, at + size)
            at += size
        self.slices = starts
        self.weight: nn.Parameter | None = nn.Parameter(torch.empty(self.out_features, in_features))
        self._quantised: Quantised | None = None
        biased = starts if bias is True else {name: starts[name] for name in starts if bias and name in bias}
        self.bias = Bias(biased) if biased else None
        # Sees the inputs of every product; what quantisation is calibrated with.
        self.observer: Callable[[torch.Tensor], None] | None = None

    @property
    def format(self) -> WeightFormat:
        if self._quantised is not None:
            return self._quantised
        assert self.weight is not None, "the layer was emptied to be quantised, and not filled"
        return Dense(self.weight, self.slices)

    def forward(self, x_TI: torch.Tensor) -> torch.Tensor:
        if self.observer is not None:
            self.observer(x_TI)
        y_TO = self.format.linear(x_TI)
        return y_TO if self.bias is None else self.bias(y_TO)

    def gated(self, x_TI: torch.Tensor) -> torch.Tensor:
        """silu(gate) * up, of a layer of these two slices: [T, I] -> [T, O / 2]."""
        assert self.bias is None
        if self.observer is not None:
            self.observer(x_TI)
        return self.format.gated(x_TI)

    def part(self, name: str | None) -> torch.Tensor:
        """The rows of one named slice, or of the whole weight: a writable view where the layer is dense."""
        if self.weight is not None:
            start, stop = (0, self.out_features) if name is None else self.slices[name]
            return self.weight.data[start:stop]
        return self.format.dense("" if name is None else name)

    def empty(self) -> None:
        """Let go of the dense weight, so that it takes no memory before `quantise` brings others."""
        self.weight = None

    def quantise(self, matrices: Mapping[str, Packed | torch.Tensor]) -> None:
        """Take matrices by the names of the slices ("" where there is one)."""
        assert matrices.keys() == self.slices.keys()
        self.weight = None
        self._quantised = Quantised({name: matrices[name] for name in self.slices})
