"""Reads the tensors of a GGUF file, quantised ones as plain codes."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

import torch

from ostro.core.errors import CheckpointError
from ostro.core.gguf import GGUFTensor, read_header
from ostro.kernels.packed_linear.layout import Codes
from ostro.weights import gguf_blocks


class GGUFFile:
    """An open file. Raises CheckpointError for anything that is not a whole, well-formed GGUF file.

    metadata and tensors are those of its header; shapes are [out, in].
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header = read_header(path)
        self.metadata = header.metadata
        self.tensors = header.tensors
        try:
            self._fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be opened: {error.strerror}.") from error

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    def read(self, name: str) -> torch.Tensor | Codes:
        """A float tensor as it is, a quantised matrix as codes. Memory peaks at little more than the result.

        Raises CheckpointError, naming the tensor, where it is missing, of a type that is not supported, or not finite.
        """
        entry = self.tensors.get(name)
        if entry is None:
            raise CheckpointError(
                f"{self.path} lacks the tensor '{name}'; it is incomplete or of another architecture."
            )
        what = f"{self.path.name}: '{name}'"
        if entry.type in gguf_blocks.DENSE:
            return self._read_dense(what, entry)

        def rows(first: int, count: int) -> torch.Tensor:
            width = entry.size // entry.shape[0]
            return self._read_bytes(entry.offset + first * width, count * width).view(count, width)

        return gguf_blocks.decode(what, entry.type, entry.shape, rows)

    def _read_dense(self, what: str, entry: GGUFTensor) -> torch.Tensor:
        dtype = gguf_blocks.DENSE[entry.type]
        values = self._read_bytes(entry.offset, entry.size).view(dtype).view(entry.shape)
        # The extremes are NaN if any value is, and finding them takes no memory.
        if not all(torch.isfinite(extreme) for extreme in torch.aminmax(values)):
            raise CheckpointError(
                f"{what} holds values that are not finite numbers; the file is damaged, or was made from weights that "
                "are. Download it again, or take another one."
            )
        return values

    def _read_bytes(self, offset: int, size: int) -> torch.Tensor:
        target = torch.empty(size, dtype=torch.uint8)
        view: memoryview = target.numpy().data
        at = 0
        while at < size:
            try:
                count = os.preadv(self._fd, [view[at : at + (1 << 30)]], offset + at)
            except OSError as error:
                raise CheckpointError(f"{self.path} cannot be read: {error.strerror}.") from error
            if count == 0:
                raise CheckpointError(f"{self.path} ended while it was being read; download it again.")
            at += count
        return target
