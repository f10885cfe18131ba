"""The types that training computes in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from ostro.core.errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class MixedPrecision:
    """Matrix products in 16 bits, the rest and the weights in 32 (Micikevicius et al. 2018).

    Half precision ends near 6e-8: there losses are scaled so that gradients do not vanish, and a step whose gradients
    overflow is left out and the scale halved.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        """Raises ConfigError for what the device cannot compute in."""
        # Emulated, it would be slower than what it is to be quicker than.
        has_bf16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
        if precision == "bf16" and not has_bf16:
            raise ConfigError("This GPU has no bfloat16. Set precision to fp16 or fp32.", param="precision")
        self._type = _TYPES.get(precision)
        self._device = device
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def products(self) -> torch.autocast:
        """Within it matrix products are in 16 bits."""
        return torch.autocast(self._device.type, self._type, enabled=self._type is not None)

    def backward(self, loss: torch.Tensor) -> None:
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch has no hints here

    def unscale(self, optimiser: torch.optim.Optimizer) -> None:
        """Gradients as they are without the scale, for whoever looks at them before the step."""
        self._scaler.unscale_(optimiser)

    def step(self, optimisers: Sequence[torch.optim.Optimizer]) -> None:
        for optimiser in optimisers:
            self._scaler.step(optimiser)
        self._scaler.update()

    def state(self) -> dict[str, torch.Tensor]:
        """What a run that goes on needs."""
        values = self._scaler.state_dict()
        return {"scaler": torch.tensor([values["scale"], values["_growth_tracker"]])} if values else {}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        if "scaler" in tensors:
            scale, since = tensors["scaler"].tolist()
            self._scaler.load_state_dict(self._scaler.state_dict() | {"scale": scale, "_growth_tracker": int(since)})
