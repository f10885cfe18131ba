"""Dense and FP8 checkpoints quantised while they stream in, so that the dense model is never in memory."""

from __future__ import annotations

import torch

from ostro.compression.rounding import round_to_nearest
from ostro.kernels.packed_linear.layout import Codes, Scheme


class OnLoad:
    """Every matrix in one scheme, rounded to nearest with searched scales, without calibration.

    For what calibration gives beyond that a checkpoint is quantised beforehand.
    """

    def __init__(self, scheme: Scheme) -> None:
        self.scheme = scheme

    def takes(self, name: str, shape: tuple[int, ...]) -> bool:
        """All of them. Raises ConfigError where the groups do not divide a row."""
        self.scheme.check(shape[1], f"'{name}'")
        return True

    def quantise(self, name: str, weight_OI: torch.Tensor) -> Codes:
        """Raises CheckpointError for weights that are not finite or too large."""
        return round_to_nearest(weight_OI.float(), self.scheme, name=name)
