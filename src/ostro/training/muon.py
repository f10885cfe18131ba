"""Muon: momentum whose matrices are made orthogonal before they are applied (Jordan et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

# Coefficients of the quintic iteration, as its authors give them: singular values come near 1 quickly, not exactly.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_STEPS = 5


def orthogonalised(gradient: torch.Tensor) -> torch.Tensor:
    """About U V^T of gradient = U S V^T, for a matrix [O, I]; computed in bfloat16, float32 again."""
    x = gradient.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(_STEPS):
        square = x @ x.T
        x = _A * x + (_B * square + _C * square @ square) @ x
    found: torch.Tensor = (x.T if tall else x).float()
    return found


class Muon(torch.optim.Optimizer):
    """For weights of two or more dimensions, which are taken as matrices [first, the rest].

    lr: size of a step, in units of the matrix's own scale. weight_decay: decoupled.
    """

    def __init__(
        self,
        parameters: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]  # closures are not used
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                moving = state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
                ahead = parameter.grad.add(moving, alpha=group["momentum"]).reshape(len(parameter), -1)
                update = orthogonalised(ahead) * max(1.0, ahead.shape[0] / ahead.shape[1]) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view_as(parameter), alpha=-group["lr"])
