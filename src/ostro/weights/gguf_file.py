"""Reads the tensors of a GGUF file, quantised ones as plain codes."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

import torch

from ostro.core.errors import CheckpointError
from ostro.core.gguf import GGUFTensor, read_header
from ostro.kernels.dispatch import native
from ostro.kernels.packed_linear.layout import Codes, Packed, empty
from ostro.weights import gguf_blocks
from ostro.weights.finite import require_finite


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
        entry, what = self._find(name)
        if entry.type in gguf_blocks.DENSE:
            return self._read_dense(what, entry)

        def rows(first: int, count: int) -> torch.Tensor:
            width = entry.size // entry.shape[0]
            return self._read_bytes(entry.offset + first * width, count * width).view(count, width)

        return gguf_blocks.decode(what, entry.type, entry.shape, rows)

    def read_packed(self, name: str, head_dim: int = 0) -> Packed | None:
        """A quantised matrix in panels, without anything in between; None where that needs native code that is not
        there, or the tensor is no quantised matrix. Errors are those of `read`.

        head_dim: the rows of each head of that many go from rotary pairs (0, 1), (2, 3), … to halves; 0 leaves them.
        """
        entry, what = self._find(name)
        scheme = gguf_blocks.scheme_of(entry.type)
        if native is None or scheme is None or len(entry.shape) != 2:
            return None
        assert not head_dim or (head_dim % 2 == 0 and entry.shape[0] % head_dim == 0)
        packed = empty(scheme, *entry.shape)
        shifts = 0 if packed.shifts is None else packed.shifts.data_ptr()
        place = (self._fd, entry.offset, *entry.shape, head_dim)
        failed = native.pack_gguf(entry.type, *place, packed.panels.data_ptr(), packed.scales.data_ptr(), shifts)
        if failed == native.GGUF_NOT_FINITE:
            raise gguf_blocks.not_finite(what)
        if failed == native.GGUF_ENDED:
            raise self._ended()
        if failed:
            raise CheckpointError(f"{self.path} cannot be read: {os.strerror(failed)}.")
        return packed

    def _find(self, name: str) -> tuple[GGUFTensor, str]:
        """A tensor, and what errors call it."""
        entry = self.tensors.get(name)
        if entry is None:
            raise CheckpointError(
                f"{self.path} lacks the tensor '{name}'; it is incomplete or of another architecture."
            )
        return entry, f"{self.path.name}: '{name}'"

    def _ended(self) -> CheckpointError:
        return CheckpointError(f"{self.path} ended while it was being read; download it again.")

    def _read_dense(self, what: str, entry: GGUFTensor) -> torch.Tensor:
        dtype = gguf_blocks.DENSE[entry.type]
        values = self._read_bytes(entry.offset, entry.size).view(dtype).view(entry.shape)
        require_finite(what, values)
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
                raise self._ended()
            at += count
        return target
