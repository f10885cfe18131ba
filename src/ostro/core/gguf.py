"""Reads the header of a GGUF file: what it says of the model, and where its tensors are.

The format is a magic number, counts, typed key-value pairs, a list of tensors and then aligned little-endian data
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Files come from strangers: every count, length and offset
is held against the file's size before anything is made of it, and what a header may hold is capped. Nothing is
mapped, because a file that is cut while it is mapped kills the process.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from ostro.core.errors import CheckpointError

Scalar = str | int | float | bool
Value = Scalar | tuple[Scalar, ...]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# A vocabulary of 131,072 and its merges take 10 MB and 700,000 items; a header of 64 MiB is made of some 400 MB.
MAX_HEADER = 64 << 20
MAX_ITEMS = 4_000_000
MAX_ENTRIES = 100_000
MAX_NAME = 65_535
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 20
CHUNK = 1 << 20

# Tensor types of ggml: name, weights a block, bytes a block.
TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True)
class GGUFTensor:
    """type: ggml's name, such as "Q4_0". shape: outermost first, so a matrix is [out, in]; the file has it reversed.

    offset and size are in bytes, the offset from the beginning of the file.
    """

    type: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True)
class GGUFHeader:
    """metadata: every key-value pair, arrays as tuples. tensors: by name, in the file's order."""

    version: int
    alignment: int
    metadata: dict[str, Value]
    tensors: dict[str, GGUFTensor]


def read_header(path: Path) -> GGUFHeader:
    """The header of a GGUF file, versions 2 and 3.

    Raises CheckpointError, naming the file, for anything that is not a whole, well-formed one.
    """
    try:
        # Opening a named pipe must not wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened: {error.strerror}.") from error
    try:
        return _read(_Reader(path, fd))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    finally:
        os.close(fd)


class _Reader:
    """Takes values from the beginning of a file one after the other, never beyond its end or the caps."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise self.broken("it is not a regular file")
        self.size = status.st_size
        self.at = 0
        self._limit = min(self.size, MAX_HEADER)
        self._buffer = bytearray()
        self._items = 0

    def broken(self, why: str) -> CheckpointError:
        return CheckpointError(f"{self._path} is not a whole GGUF file: {why}. Download it again.")

    def raw(self, count: int) -> bytes:
        start = self._advance(count)
        return bytes(self._buffer[start : self.at])

    def u32(self) -> int:
        return int(_U32.unpack_from(self._buffer, self._advance(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack_from(self._buffer, self._advance(8))[0])

    def count(self, what: str, item: int, most: int) -> int:
        """A number of things of at least `item` bytes that follow."""
        count = self.u64()
        if count > most or count * item > self.size - self.at:
            raise self.broken(
                f"it would hold {count} {what}; at most {most} are read, and {self.size - self.at} bytes are left"
            )
        return count

    def name(self) -> str:
        text = self.string("a name")
        if not 0 < len(text) <= MAX_NAME:
            raise self.broken(f"a name has {len(text)} characters instead of 1 to {MAX_NAME}")
        return text

    def string(self, what: str) -> str:
        start = self._advance(int(_U64.unpack_from(self._buffer, self._advance(8))[0]))
        try:
            return self._buffer[start : self.at].decode()
        except UnicodeDecodeError as error:
            raise self.broken(f"{what} at byte {start} is not UTF-8") from error

    def value(self, what: str) -> Value:
        kind = self.u32()
        if kind != _ARRAY:
            return self._values(kind, 1, what)[0]
        kind = self.u32()
        if kind == _ARRAY:
            raise self.broken(f"{what} is an array of arrays, which no model's metadata needs")
        count = self.count(f"items in {what}", self._item_size(kind, what), MAX_ITEMS)
        self._items += count
        if self._items > MAX_ITEMS:
            raise self.broken(f"its arrays hold more than {MAX_ITEMS} items")
        return self._values(kind, count, what)

    def _item_size(self, kind: int, what: str) -> int:
        if kind == _STRING:
            return 8
        return self._format(kind, what).size

    def _format(self, kind: int, what: str, count: int = 1) -> struct.Struct:
        letter = "B" if kind == _BOOL else _NUMBERS.get(kind)
        if letter is None:
            raise self.broken(f"{what} has the unknown type {kind}")
        return struct.Struct(f"<{count}{letter}")

    def _values(self, kind: int, count: int, what: str) -> tuple[Scalar, ...]:
        if kind == _STRING:
            return tuple([self.string(what) for _ in range(count)])
        form = self._format(kind, what, count)
        numbers = form.unpack_from(self._buffer, self._advance(form.size))
        if kind != _BOOL:
            return numbers
        if not set(numbers) <= {0, 1}:
            raise self.broken(f"{what} holds a truth value that is neither 0 nor 1")
        return tuple(map(bool, numbers))

    def _advance(self, count: int) -> int:
        """Make `count` bytes available and step over them; returns where they begin."""
        start, end = self.at, self.at + count
        if end > len(self._buffer):
            self._fill(end)
        self.at = end
        return start

    def _fill(self, end: int) -> None:
        if end > self._limit:
            if end > self.size:
                raise self.broken(f"its header goes on to byte {end}, but it has only {self.size}: it is truncated")
            raise self.broken(f"its header is larger than {MAX_HEADER} bytes")
        while len(self._buffer) < end:
            wanted = min(max(CHUNK, end - len(self._buffer)), self._limit - len(self._buffer))
            read = os.pread(self._fd, wanted, len(self._buffer))
            if not read:
                raise self.broken("it ended while it was being read")
            self._buffer += read


def _read(reader: _Reader) -> GGUFHeader:
    magic = reader.raw(4) if reader.size >= 4 else b""
    if magic != MAGIC:
        raise reader.broken(f"it begins with {magic!r} instead of {MAGIC!r}")
    version = reader.u32()
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        order = ", in big-endian order" if swapped in VERSIONS else ""
        raise reader.broken(f"it has version {min(version, swapped)}{order}; 2 and 3 in little-endian order are read")
    # The least that a tensor takes: a name, its dimensions, type and offset; that a pair takes: a key, type and value.
    tensors = reader.count("tensors", 8 + 1 + 4 + 8 + 4 + 8, MAX_ENTRIES)
    pairs = reader.count("key-value pairs", 8 + 1 + 4 + 1, MAX_ENTRIES)
    metadata = _read_metadata(reader, pairs)
    alignment = _read_alignment(reader, metadata)
    entries = _read_tensors(reader, tensors)
    start = -(-reader.at // alignment) * alignment
    placed = {name: _place(reader, name, entry, start, alignment) for name, entry in entries.items()}
    _check_overlaps(reader, placed)
    return GGUFHeader(version, alignment, metadata, placed)


def _read_metadata(reader: _Reader, count: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for _ in range(count):
        key = reader.name()
        if key in metadata:
            raise reader.broken(f"the key {_shown(key)} occurs twice")
        metadata[key] = reader.value(_shown(key))
    return metadata


def _read_alignment(reader: _Reader, metadata: dict[str, Value]) -> int:
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise reader.broken(f"general.alignment must be a power of two up to {MAX_ALIGNMENT}")
    return alignment


def _read_tensors(reader: _Reader, count: int) -> dict[str, GGUFTensor]:
    """Offsets are still as in the file: from the beginning of the data."""
    entries: dict[str, GGUFTensor] = {}
    for _ in range(count):
        name = reader.name()
        if name in entries:
            raise reader.broken(f"the tensor {_shown(name)} occurs twice")
        entries[name] = _read_tensor(reader, name)
    return entries


def _read_tensor(reader: _Reader, name: str) -> GGUFTensor:
    dimensions = reader.u32()
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise reader.broken(f"{_shown(name)} has {dimensions} dimensions instead of 1 to {MAX_DIMENSIONS}")
    extents = [reader.u64() for _ in range(dimensions)]
    kind, offset = reader.u32(), reader.u64()
    if kind not in TYPES:
        raise reader.broken(f"{_shown(name)} has the unknown tensor type {kind}")
    type_name, weights, width = TYPES[kind]
    shape = tuple(reversed(extents))
    if min(shape) < 1 or shape[-1] % weights:
        raise reader.broken(f"{_shown(name)} {list(shape)} cannot be cut into blocks of {weights} ({type_name})")
    size = width
    for extent in (*shape[:-1], shape[-1] // weights):
        size *= extent
    return GGUFTensor(type_name, shape, offset, size)


def _place(reader: _Reader, name: str, entry: GGUFTensor, start: int, alignment: int) -> GGUFTensor:
    if entry.offset % alignment:
        raise reader.broken(f"{_shown(name)} begins at {entry.offset}, which is not a multiple of {alignment}")
    end = start + entry.offset + entry.size
    if end > reader.size:
        raise reader.broken(
            f"{_shown(name)} {list(entry.shape)} of {entry.type} ends at byte {end}, but the file has only "
            f"{reader.size}: it is truncated"
        )
    return GGUFTensor(entry.type, entry.shape, start + entry.offset, entry.size)


def _check_overlaps(reader: _Reader, tensors: dict[str, GGUFTensor]) -> None:
    at = 0
    for name, entry in sorted(tensors.items(), key=lambda item: item[1].offset):
        if entry.offset < at:
            raise reader.broken(f"{_shown(name)} overlaps the tensor before it")
        at = entry.offset + entry.size


def _shown(name: str) -> str:
    """A name that a stranger chose, short enough for a message."""
    return repr(name if len(name) <= 64 else f"{name[:61]}...")
