"""Checkpoints whose weights are integers: which reader a folder's `quantization_config` asks for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import torch

from ostro.kernels.packed_linear.layout import Codes, Packed
from ostro.weights.quantised import ostro


class QuantisedReader(Protocol):
    """Knows which tensors one weight is made of, and puts them together."""

    def parts(self, name: str) -> Collection[str]:
        """The tensors that belong to the weight `name`; none where it is not quantised."""

    def read(
        self, name: str, read_tensor: Callable[[str], torch.Tensor | None], shape: tuple[int, int]
    ) -> Codes | Packed:
        """The weight [O, I]. read_tensor: a stored tensor by its name, None where there is none."""


def find(config: Mapping[str, Any], tensors: Collection[str]) -> QuantisedReader | None:
    """The reader for a config; None where it describes FP8, which the loader multiplies out by itself.

    tensors: the names that are stored.
    """
    del tensors
    return ostro.OstroReader(config) if config.get("quant_method") == ostro.METHOD else None
