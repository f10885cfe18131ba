"""Checkpoints whose weights are integers: which reader a folder's `quantization_config` asks for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import torch

from ostro.core.errors import ConfigError
from ostro.kernels.packed_linear.layout import Codes, Packed
from ostro.weights.quantised import awq, compressed_tensors, gptq, ostro

# Weights of FP8 are multiplied out by the loader, which needs no config for that.
FP8_METHODS = ("fp8", "fbgemm_fp8", "modelopt")
METHODS = (ostro.METHOD, gptq.METHOD, awq.METHOD, compressed_tensors.METHOD)


class QuantisedReader(Protocol):
    """Knows which tensors one weight is made of, and puts them together."""

    def parts(self, name: str) -> Collection[str]:
        """The tensors that may belong to the weight `name`; none where it is not quantised."""

    def read(
        self, name: str, read_tensor: Callable[[str], torch.Tensor | None], shape: tuple[int, int]
    ) -> Codes | Packed:
        """The weight [O, I]. read_tensor: a stored tensor by its name, None where there is none."""


def find(config: object, tensors: Collection[str]) -> QuantisedReader | None:
    """The reader for a config; None where it describes FP8, which the loader multiplies out by itself.

    config: the value that JSON gives. tensors: the names that are stored. Raises ConfigError for what is malformed or
    not supported, CheckpointError for what is not stored.
    """
    if not isinstance(config, Mapping):
        raise ConfigError(
            f"The checkpoint's quantization_config must be a JSON object, not {config!r}.", param="quantization_config"
        )
    method = config.get("quant_method")
    match method:
        case ostro.METHOD:
            return ostro.OstroReader(config, tensors)
        case gptq.METHOD:
            return gptq.GPTQReader(config, tensors)
        case awq.METHOD:
            return awq.AWQReader(config, tensors)
        case compressed_tensors.METHOD:
            return compressed_tensors.CompressedTensorsReader(config, tensors)
    # Native checkpoints name no method.
    if method is None or method in FP8_METHODS:
        return None
    raise ConfigError(
        f"The checkpoint is quantised by the method {method!r}, which is not supported; "
        f"{', '.join((*METHODS, *FP8_METHODS))} are. Take one of these, or the model's own weights.",
        param="quantization_config",
    )
