"""Weight formats of a linear layer, found by name. A format owns its tensors' layout; nothing else knows it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import nn

from ostro.kernels.linear import linear


class WeightFormat(ABC):
    """How one weight matrix [out, in] is stored and multiplied."""

    name: ClassVar[str]

    @abstractmethod
    def create(self, module: nn.Module, out_features: int, in_features: int) -> None:
        """Register the format's (empty) tensors on `module`."""

    @abstractmethod
    def matmul(self, module: nn.Module, x_TI: torch.Tensor) -> torch.Tensor:
        """x [T, in] -> [T, out]."""

    @abstractmethod
    def rows(self, module: nn.Module, start: int, stop: int) -> torch.Tensor:
        """A writable dense view of weight rows [start, stop), for loading and saving."""


FORMATS: dict[str, WeightFormat] = {}


def register(format_class: type[WeightFormat]) -> type[WeightFormat]:
    FORMATS[format_class.name] = format_class()
    return format_class


@register
class Dense(WeightFormat):
    """One float tensor."""

    name = "dense"

    def create(self, module: nn.Module, out_features: int, in_features: int) -> None:
        module.register_parameter("weight", nn.Parameter(torch.empty(out_features, in_features)))

    def matmul(self, module: nn.Module, x_TI: torch.Tensor) -> torch.Tensor:
        return linear(x_TI, module.weight)  # type: ignore[arg-type]  # registered in create()

    def rows(self, module: nn.Module, start: int, stop: int) -> torch.Tensor:
        weight: torch.Tensor = module.weight  # type: ignore[assignment]  # registered in create()
        return weight.data[start:stop]
