"""The one linear layer: a weight in some format, possibly several projections stacked, with named slices."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ostro.models.layers.formats import FORMATS


class Linear(nn.Module):
    """y = x W^T, no bias (the family has none).

    slices: name -> output features, in stacking order; adapters, quantisation and sharding bind to these names.
    """

    def __init__(self, in_features: int, slices: Mapping[str, int] | int, weight_format: str = "dense") -> None:
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
        self.format = FORMATS[weight_format]
        self.format.create(self, self.out_features, in_features)

    def forward(self, x_TI: torch.Tensor) -> torch.Tensor:
        return self.format.matmul(self, x_TI)

    def part(self, name: str | None) -> torch.Tensor:
        """A writable view of the rows of one named slice, or of the whole weight."""
        start, stop = (0, self.out_features) if name is None else self.slices[name]
        return self.format.rows(self, start, stop)
