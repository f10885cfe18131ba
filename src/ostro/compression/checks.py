"""What numbers must be like to be quantised."""

from __future__ import annotations

import torch

from ostro.core.errors import CheckpointError


def require_finite(values: torch.Tensor, name: str, what: str) -> None:
    """Raises CheckpointError that names the layer and says how many of its `what` are NaN or infinite."""
    # The extremes are NaN if any value is, and finding them takes no memory.
    if values.numel() and all(torch.isfinite(extreme) for extreme in torch.aminmax(values)):
        return
    count = values.numel() - int(torch.isfinite(values).sum())
    if count:
        raise CheckpointError(
            f"'{name}' has {count} of {values.numel()} {what} that are NaN or infinite, so it cannot be quantised. "
            "Download the checkpoint again; if it is broken at its source, use another one."
        )


def require_storable(values: torch.Tensor, name: str) -> None:
    """Raises CheckpointError where scales or shifts left the range of float16."""
    count = values.numel() - int(torch.isfinite(values).sum())
    if count:
        raise CheckpointError(
            f"'{name}' has weights so large that the scale or shift of {count} group(s) is beyond float16 (65504). "
            "Weights of a trained model are far smaller: look whether a scale was applied twice, or keep the layer "
            "unquantised."
        )
