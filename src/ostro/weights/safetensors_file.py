"""Reads safetensors files straight into memory that is already there.

The safetensors library maps whole files; the pages it touches count against the process until it is closed. A
loader that must stay within a few per cent of the model's size reads tensor by tensor instead. The format is a
length, a JSON header and raw little-endian data (https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from ostro.core.errors import CheckpointError

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
MAX_HEADER = 100_000_000
CACHE_LINE = 64
MADV_POPULATE_READ = 22  # Of Linux 5.14; Python has no name for it yet.


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file: its type, its shape and where its bytes are."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    size: int


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key occurs twice")
    return values


class SafetensorsFile:
    """An open file. Raises CheckpointError for anything that is not a whole, well-formed safetensors file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mapped: torch.Tensor | None = None
        try:
            self._fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be opened: {error.strerror}.") from error
        try:
            self.tensors = self._read_header()
        except BaseException:  # whatever it was, no open file stays
            os.close(self._fd)
            raise

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def read_into(self, entry: TensorEntry, target: torch.Tensor) -> None:
        """Fill a contiguous CPU tensor of the entry's type and element count with its bytes."""
        assert target.is_contiguous()
        assert target.dtype == entry.dtype
        assert target.is_cpu
        view: memoryview = target.reshape(-1).view(torch.uint8).numpy().data
        assert len(view) == entry.size
        at = 0
        while at < entry.size:
            try:
                count = os.preadv(self._fd, [view[at : at + (1 << 30)]], entry.offset + at)
            except OSError as error:
                raise CheckpointError(f"{self.path} cannot be read: {error.strerror}.") from error
            if count == 0:
                raise CheckpointError(f"{self.path} ended while it was being read; download it again.")
            at += count

    def read(self, entry: TensorEntry) -> torch.Tensor:
        target = torch.empty(entry.shape, dtype=entry.dtype)
        self.read_into(entry, target)
        return target

    def map(self, entry: TensorEntry) -> torch.Tensor:
        """The tensor where it lies in the page cache: nothing is copied, and its memory is shared with other processes.

        It must not be written to. A file that is cut short while it is mapped takes the process down: replace
        checkpoints, never overwrite them. What does not begin at a cache line is read instead.
        """
        if entry.offset % CACHE_LINE or not entry.size:
            return self.read(entry)
        if self._mapped is None:
            # Private pages: PyTorch has no tensors that cannot be written to.
            mapping = mmap.mmap(self._fd, 0, access=mmap.ACCESS_COPY)
            # Asked for at once, a cold file is read forwards, and a warm one costs no fault for every few pages.
            with contextlib.suppress(OSError):
                mapping.madvise(MADV_POPULATE_READ)
            self._mapped = torch.frombuffer(mapping, dtype=torch.uint8)
        return self._mapped[entry.offset : entry.offset + entry.size].view(entry.dtype).view(entry.shape)

    def _read_header(self) -> dict[str, TensorEntry]:
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            raise self._broken("it is not a regular file")
        size = status.st_size
        if size < 8:
            raise self._broken(f"it has only {size} bytes")
        length = int.from_bytes(os.pread(self._fd, 8, 0), "little")
        if length < 2 or length > MAX_HEADER or 8 + length > size:
            raise self._broken(f"its header would be {length} bytes of a file of {size}")
        try:
            header = json.loads(os.pread(self._fd, length, 8), object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise self._broken(f"its header is not JSON ({error})") from error
        if not isinstance(header, dict):
            raise self._broken("its header is not a JSON object")
        header.pop("__metadata__", None)
        entries = {name: self._entry(name, value, 8 + length, size) for name, value in header.items()}
        self._check_layout(entries, 8 + length, size)
        return entries

    def _check_layout(self, entries: dict[str, TensorEntry], start: int, file_size: int) -> None:
        """The format wants the data to be covered exactly: no overlaps, no holes, nothing behind."""
        at = start
        for name, entry in sorted(entries.items(), key=lambda item: (item[1].offset, item[1].size)):
            if entry.offset != at:
                what = "overlaps the tensor before it" if entry.offset < at else "leaves a hole before it"
                raise self._broken(f"'{name}' {what}")
            at += entry.size
        if at != file_size:
            raise self._broken(f"its tensors end at byte {at}, but it has {file_size}")

    def _entry(self, name: str, value: Any, start: int, file_size: int) -> TensorEntry:
        try:
            dtype, shape = value["dtype"], tuple(value["shape"])
            begin, end = value["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise self._broken(f"the entry of '{name}' is malformed") from error
        if not isinstance(dtype, str) or any(type(n) is not int or abs(n) >= 2**63 for n in (*shape, begin, end)):
            raise self._broken(f"the entry of '{name}' is malformed")
        if dtype not in DTYPES:
            raise CheckpointError(f"{self.path}: '{name}' has the type {dtype!r}, which is not supported.")
        elements = 1
        for extent in shape:
            elements *= extent
        wanted = elements * DTYPES[dtype].itemsize
        if begin < 0 or end - begin != wanted or min(shape, default=0) < 0:
            raise self._broken(f"'{name}' {list(shape)} of {dtype} needs {wanted} bytes, its entry gives {end - begin}")
        if start + end > file_size:
            raise self._broken(
                f"'{name}' ends at byte {start + end}, but the file has only {file_size}: it is truncated"
            )
        return TensorEntry(DTYPES[dtype], shape, start + begin, wanted)

    def _broken(self, why: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is not a whole safetensors file: {why}. Download or save it again.")
