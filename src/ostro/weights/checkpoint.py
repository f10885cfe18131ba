"""What the loader asks of a checkpoint, whatever format its weights are in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from ostro.kernels.packed_linear.layout import Codes, Packed

Weight = torch.Tensor | Codes | Packed


@dataclass(frozen=True)
class WeightInfo:
    """A weight before it is read. dtype: None where it is quantised to integers, and then its shape is not told.
    place: where it is in the files, to read them forwards. size: its bytes there."""

    shape: tuple[int, ...] | None
    dtype: torch.dtype | None
    size: int
    place: tuple[str, int]

    @property
    def quantised(self) -> bool:
        return self.dtype is None


class Checkpoint(ABC):
    """Weights by the names of the layout (`model.layers.0.mlp.down_proj.weight`), open until `close`.

    origin: what errors call it.
    """

    origin: str

    @abstractmethod
    def info(self, name: str) -> WeightInfo | None:
        """What is known of a weight before it is read; None where there is no such weight."""

    @abstractmethod
    def left(self, taken: set[str]) -> set[str]:
        """What the files hold besides these weights and what belongs to them: scales, zero points."""

    @abstractmethod
    def read(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Weight:
        """One weight of that shape: quantised ones as they are, others as a tensor, FP8 multiplied out to `dtype`.

        Raises CheckpointError for what is broken, not finite or of an unknown format.
        """

    def read_packed(self, name: str, head_dim: int = 0) -> Packed | None:
        """A weight that is quantised, straight into panels; None where there is no such way and `read` is the one.

        head_dim: the rows of each head of that many go from rotary pairs (0, 1), (2, 3), … to halves; 0 leaves them.
        """
        del name, head_dim
        return None

    def read_into(self, name: str, target: torch.Tensor) -> None:
        """A weight of the target's own type, straight into it."""
        value = self.read(name, tuple(target.shape), target.dtype)
        assert isinstance(value, torch.Tensor)
        target.copy_(value)

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
