"""RMSNorm as a module that only holds its weight."""

from __future__ import annotations

import torch
from torch import nn

from ostro.kernels.rms_norm import add_rms_norm, rms_norm


class RMSNorm(nn.Module):
    """y = x / rms(x) * weight. With a branch, the residual sum first."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size))

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        return rms_norm(x_TD, self.weight, self.eps)

    def add(self, x_TD: torch.Tensor, branch_TD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(x + branch, norm(x + branch)); may overwrite x where no gradient is recorded."""
        return add_rms_norm(x_TD, branch_TD, self.weight, self.eps)

    def part(self, name: str | None) -> torch.Tensor:
        assert name is None
        return self.weight.data
