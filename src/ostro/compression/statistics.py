"""What quantisation wants to know of a layer's inputs, gathered while calibration text runs through it."""

from __future__ import annotations

import torch

from ostro.compression.sampling import TOKENS
from ostro.core.errors import CheckpointError


class InputStatistics:
    """Of inputs [T, I], however many: X^T X, the largest magnitudes, and some of the rows.

    total: the tokens that will be seen; 0 keeps no sample of the inputs. hessian: whether X^T X is wanted, [I, I], or
    only its diagonal.
    """

    def __init__(self, name: str, total: int, *, hessian: bool) -> None:
        self.name = name
        self._total = total
        self._wanted = hessian
        self._kept: list[torch.Tensor] = []
        self._seen = 0
        self._squares_I = torch.zeros(0)
        self._hessian_II: torch.Tensor | None = None

    def observe(self, x_TI: torch.Tensor) -> None:
        x_TI = x_TI.detach().float()
        if not self._seen:
            self._squares_I = torch.zeros(x_TI.shape[1])
            self._hessian_II = torch.zeros(x_TI.shape[1], x_TI.shape[1]) if self._wanted else None
        self._squares_I += x_TI.square().sum(0)
        if self._hessian_II is not None:
            self._hessian_II.addmm_(x_TI.T, x_TI)
        self._seen += len(x_TI)
        if self._total:
            every = max(1, self._total // TOKENS)
            self._kept.append(x_TI[::every].clone())

    @property
    def any(self) -> bool:
        """Whether anything ran through the layer."""
        return self._seen > 0

    def check(self) -> None:
        """Raises CheckpointError where calibration gave no numbers."""
        assert self._seen, "nothing ran through the layer"
        if not self._squares_I.isfinite().all():
            raise CheckpointError(
                f"The inputs of '{self.name}' overflow or are not numbers for the calibration text. A weight before it "
                "is broken; download the checkpoint again."
            )

    @property
    def sample(self) -> torch.Tensor:
        """About a thousand inputs, evenly spaced."""
        return torch.cat(self._kept)

    @property
    def squares(self) -> torch.Tensor:
        """What an error of each input's weights counts: the sum of the input's squares."""
        return self._squares_I

    @property
    def hessian(self) -> torch.Tensor | None:
        return self._hessian_II

    def scale(self, scales_I: torch.Tensor) -> None:
        """The inputs are now divided by these."""
        self._kept = [(torch.cat(self._kept) / scales_I)]
        self._squares_I /= scales_I.square()
        if self._hessian_II is not None:
            self._hessian_II /= scales_I
            self._hessian_II /= scales_I[:, None]
