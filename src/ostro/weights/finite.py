"""Weights that are no numbers are refused while they are loaded: later they would show in answers only."""

from __future__ import annotations

import torch

from ostro.core.errors import CheckpointError
from ostro.kernels.dispatch import native
from ostro.kernels.packed_linear.layout import all_finite

HALVES = (torch.float16, torch.bfloat16)


def require_finite(what: str, values: torch.Tensor) -> None:
    """Raises CheckpointError where a floating-point value is NaN or infinite. what: names the file and the tensor."""
    if not _finite(values):
        raise CheckpointError(
            f"{what} holds values that are not finite numbers; the file is damaged, or was made from weights that "
            "are. Download it again, or take another one."
        )


def _finite(values: torch.Tensor) -> bool:
    """It takes no memory, and a small part of the time that reading took."""
    if not values.numel():
        return True
    # Read as float16, which has the shorter exponent, every bfloat16 that is no number is none, and so are some huge
    # ones that are: only these take the slower way as well.
    if native is not None and values.dtype in HALVES and all_finite(values.view(torch.float16)):
        return True
    # The extremes are NaN if any value is.
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(values))
