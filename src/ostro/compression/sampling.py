"""Evenly spaced samples: a search over scales needs to see a part of a layer and of its inputs only."""

from __future__ import annotations

from collections.abc import Sequence

import torch

ROWS = 512
TOKENS = 1024


def evenly(rows_NI: torch.Tensor, most: int) -> torch.Tensor:
    """All rows where there are no more than `most`, else that many at equal distances; float32."""
    count = len(rows_NI)
    if count > most:
        rows_NI = rows_NI[torch.arange(most, device=rows_NI.device) * count // most]
    return rows_NI.detach().float()


def sampled_outputs(weights: Sequence[torch.Tensor], most: int = ROWS) -> torch.Tensor:
    """Weights [O, I] that read the same inputs -> rows [N, I] float32, of each weight its share."""
    total = sum(len(weight_OI) for weight_OI in weights)
    return torch.cat([evenly(weight_OI, max(1, most * len(weight_OI) // total)) for weight_OI in weights])
