"""The weights of a GGUF file, as the loader asks for them."""

from __future__ import annotations

from pathlib import Path

import torch

from ostro.kernels.packed_linear.layout import Packed
from ostro.weights import gguf_blocks
from ostro.weights.checkpoint import Checkpoint, Weight, WeightInfo
from ostro.weights.gguf_file import GGUFFile


class GGUFWeights(Checkpoint):
    """One file. Its matrices are codes but for those in floating point."""

    def __init__(self, path: Path) -> None:
        self.origin = str(path)
        self._file = GGUFFile(path)

    def close(self) -> None:
        self._file.close()

    def info(self, name: str) -> WeightInfo | None:
        entry = self._file.tensors.get(name)
        if entry is None:
            return None
        dtype = gguf_blocks.DENSE.get(entry.type)
        return WeightInfo(entry.shape, dtype, entry.size, (self._file.path.name, entry.offset))

    def left(self, taken: set[str]) -> set[str]:
        return self._file.tensors.keys() - taken

    def read(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Weight:
        del shape, dtype  # the file says both
        return self._file.read(name)

    def read_packed(self, name: str, head_dim: int = 0) -> Packed | None:
        return self._file.read_packed(name, head_dim)
