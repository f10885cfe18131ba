"""The GGUF header: what the gguf package writes is read exactly, and nothing hostile gets past it or costs much."""

from __future__ import annotations

import os
import random
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ostro.core import gguf as reader
from ostro.core.errors import CheckpointError
from ostro.core.gguf import GGUFHeader, read_header

FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
STRING, ARRAY, U8, U32, I32, BOOL = 8, 9, 0, 4, 5, 7


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(key: str, kind: int, count: int, items: bytes = b"") -> bytes:
    return pair(key, ARRAY, struct.pack("<IQ", kind, count) + items)


def tensor(name: str | bytes, dims: list[int], kind: int = 0, offset: int = 0, count: int | None = None) -> bytes:
    counted = struct.pack("<I", len(dims) if count is None else count)
    return text(name) + counted + struct.pack(f"<{len(dims)}QIQ", *dims, kind, offset)


def head(pairs: list[bytes], tensors: list[bytes], version: int = 3) -> bytes:
    counts = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(pairs))
    return counts + b"".join(pairs) + b"".join(tensors)


def whole(pairs: list[bytes], tensors: list[bytes], data: int = 64, alignment: int = 32) -> bytes:
    header = head(pairs, tensors)
    return header + bytes(-len(header) % alignment + data)


def refused(folder: Path, content: bytes) -> str:
    """The message; it always names the file, and is never long."""
    path = folder / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 400
    return str(caught.value)


def loaded(folder: Path, content: bytes) -> GGUFHeader:
    path = folder / "model.gguf"
    path.write_bytes(content)
    return read_header(path)


def written(path: Path, alignment: int = 32) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """A file of the gguf package with every type of value; what is in it."""
    values: dict[str, Any] = {
        "u8": (200, "uint8"),
        "i8": (-100, "int8"),
        "u16": (60_000, "uint16"),
        "i16": (-30_000, "int16"),
        "u32": (4_000_000_000, "uint32"),
        "i32": (-2_000_000_000, "int32"),
        "u64": (2**63 + 1, "uint64"),
        "i64": (-(2**62), "int64"),
        "f32": (0.5, "float32"),
        "f64": (0.1, "float64"),
        "yes": (True, "bool"),
        "no": (False, "bool"),
        "word": ("naïve 😀", "string"),
    }
    writer = gguf.GGUFWriter(path, "llama")
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    for key, (value, kind) in values.items():
        getattr(writer, f"add_{kind}")(key, value)
    writer.add_token_list(["a", "é", "\n"])
    writer.add_token_scores([0.0, -1.0, -2.5])
    writer.add_array("flags", [True, False])
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "m": np.arange(12, dtype=np.float32).reshape(3, 4),
        "deep": np.ones((2, 1, 3), np.float16),
    }
    for name, data in tensors.items():
        writer.add_tensor(name, data)
    # Three rows of two blocks each.
    writer.add_tensor("q", np.zeros((3, 36), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {key: value for key, (value, _) in values.items()}, tensors


@pytest.mark.parametrize("alignment", [32, 256])
def test_what_the_package_writes_is_read(tmp_path: Path, alignment: int) -> None:
    path = tmp_path / "model.gguf"
    values, tensors = written(path, alignment)
    header = read_header(path)
    assert (header.version, header.alignment) == (3, alignment)
    for key, value in values.items():
        assert header.metadata[key] == value
        assert type(header.metadata[key]) is type(value)
    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["tokenizer.ggml.tokens"] == ("a", "é", "\n")
    assert header.metadata["tokenizer.ggml.scores"] == (0.0, -1.0, -2.5)
    assert header.metadata["flags"] == (True, False)
    content = path.read_bytes()
    for name, data in tensors.items():
        entry = header.tensors[name]
        assert entry.shape == data.shape
        assert entry.offset % alignment == 0
        assert content[entry.offset : entry.offset + entry.size] == data.tobytes()
    assert (header.tensors["q"].type, header.tensors["q"].shape, header.tensors["q"].size) == ("Q4_0", (3, 64), 108)


def test_types_and_sizes_are_those_of_the_package() -> None:
    sizes = {int(kind): (kind.name, *size) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    # Q8_1 has two float16 beside its codes; the package counts them as float32.
    sizes[9] = ("Q8_1", 32, 36)
    assert sizes == {kind: reader.TYPES[kind] for kind in sizes}


def test_version_2_and_files_without_tensors(tmp_path: Path) -> None:
    header = loaded(tmp_path, head([pair("a", U32, struct.pack("<I", 7))], [], version=2))
    assert header == GGUFHeader(2, 32, {"a": 7}, {})


def test_a_large_vocabulary_is_read_quickly(tmp_path: Path) -> None:
    path = tmp_path / "large.gguf"
    tokens = b"".join(text(f"token {i}é") for i in range(131_072))
    merges = b"".join(text(f"Ġab{i} cd") for i in range(270_000))
    types = struct.pack("<131072i", *range(131_072))
    pairs = [array("t", STRING, 131_072, tokens), array("m", STRING, 270_000, merges), array("k", I32, 131_072, types)]
    path.write_bytes(head(pairs, []))
    start = time.process_time()
    header = read_header(path)
    assert time.process_time() - start < 2
    assert header.metadata["t"][131_071] == "token 131071é"  # type: ignore[index]  # a tuple
    assert header.metadata["k"] == tuple(range(131_072))


def test_a_file_cut_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    written(path)
    content = path.read_bytes()
    end = max(entry.offset + entry.size for entry in read_header(path).tensors.values())
    for length in range(end):
        refused(tmp_path, content[:length])
    loaded(tmp_path, content[:end])


@FUZZ
@given(data=st.data())
def test_flipped_bytes(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever is flipped, the file is refused or its tensors are within it; nothing else happens, at little cost."""
    path = tmp_path / "model.gguf"
    written(path)
    content = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    tracemalloc.start()
    try:
        header = read_header(path)
        assert all(0 < entry.offset <= len(content) - entry.size for entry in header.tensors.values())
    except CheckpointError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 1_000_000


@FUZZ
@given(st.binary(max_size=400), st.integers(0, 5), st.integers(0, 5))
def test_anything_behind_the_magic(tmp_path: Path, rest: bytes, tensors: int, pairs: int) -> None:
    path = tmp_path / "model.gguf"
    for content in (rest, struct.pack("<4sIQQ", b"GGUF", 3, tensors, pairs) + rest):
        path.write_bytes(content)
        try:
            read_header(path)
        except CheckpointError:
            continue
        assert tensors == pairs == 0


@pytest.mark.parametrize("count", [100, 100_001, 2**31, 2**32, 2**63, 2**64 - 1])
@pytest.mark.parametrize(
    "place",
    ["tensors", "pairs", "key", "string", "strings", "bytes", "bools", "item", "name", "dimensions", "offset"],
)
def test_huge_counts_and_lengths(tmp_path: Path, place: str, count: int) -> None:
    number = struct.pack("<Q", count)
    content = {
        "tensors": b"GGUF" + struct.pack("<IQQ", 3, count, 0),
        "pairs": b"GGUF" + struct.pack("<IQQ", 3, 0, count),
        "key": head([number + b"key"], []),
        "string": head([pair("a", STRING, number + b"x")], []),
        "strings": head([array("a", STRING, count, text("x"))], []),
        "bytes": head([array("a", U8, count, b"x")], []),
        "bools": head([array("a", BOOL, count, b"\1")], []),
        "item": head([array("a", STRING, 1, number + b"x")], []),
        "name": head([], [number + b"n"]),
        "dimensions": whole([], [tensor("n", [1], count=count % 2**32 or 9)]),
        "offset": whole([], [tensor("n", [1], offset=count - count % 32)]),
    }[place]
    tracemalloc.start()
    start = time.process_time()
    message = refused(tmp_path, content)
    assert time.process_time() - start < 1
    if place in ("tensors", "pairs", "strings", "bytes", "bools"):
        assert f"it would hold {count} " in message  # Before anything is made of it.
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_many_short_strings_are_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strings in memory are several times what they are in the file, so their number has a cap of its own."""
    monkeypatch.setattr(reader, "MAX_ITEMS", 1000)
    assert "at most 1000" in refused(tmp_path, head([array("a", STRING, 1001, bytes(8 * 1001))], []))
    twice = [array(key, U8, 600, bytes(600)) for key in "ab"]
    assert "more than 1000 items" in refused(tmp_path, head(twice, []))
    loaded(tmp_path, head(twice[:1], []))


def test_a_header_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    """The file is large enough for what it announces; it is still no header of a model."""
    path = tmp_path / "model.gguf"
    path.write_bytes(head([pair("a", STRING, struct.pack("<Q", 3 << 30))], []))
    os.truncate(path, 4 << 30)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="larger than"):
        read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "begins with b''"),
        (b"PK\x03\x04 a zip", "begins with b'PK"),
        (head([], [], version=1), "version 1"),
        (head([], [], version=4), "version 4"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (head([pair("a", U32, bytes(4))] * 2, []), "'a' occurs twice"),
        (whole([], [tensor("t", [4])] * 2), "'t' occurs twice"),
        (head([pair("", U32, bytes(4))], []), "0 characters"),
        (head([pair("k" * 70_000, U32, bytes(4))], []), "70000 characters"),
        (head([pair(b"\xff\xfe", U32, bytes(4))], []), "not UTF-8"),
        (head([pair("a", STRING, text(b"\xc3"))], []), "'a' at byte 45 is not UTF-8"),
        (head([array("a", STRING, 2, text("x") + text(b"\xed\xa0\x80"))], []), "not UTF-8"),
        (whole([], [tensor(b"\x80", [4])]), "not UTF-8"),
        (head([pair("a", 13, bytes(8))], []), "unknown type 13"),
        (head([array("a", 99, 1, bytes(8))], []), "unknown type 99"),
        (head([array("a", ARRAY, 1, bytes(20))], []), "array of arrays"),
        (head([pair("a", BOOL, b"\2")], []), "neither 0 nor 1"),
        (head([array("a", BOOL, 2, b"\1\3")], []), "neither 0 nor 1"),
        (whole([], [tensor("t", [])]), "0 dimensions"),
        (whole([], [tensor("t", [1] * 5)]), "5 dimensions"),
        (whole([], [tensor("t", [0])]), "cannot be cut"),
        (whole([], [tensor("t", [33, 2], kind=2)]), "cannot be cut into blocks of 32"),
        (whole([], [tensor("t", [32, 2, 0], kind=2)]), "cannot be cut"),
        (whole([], [tensor("t", [4], kind=4)]), "unknown tensor type 4"),
        (whole([], [tensor("t", [4], kind=2**32 - 1)]), "unknown tensor type"),
        (whole([], [tensor("t", [4], offset=16)]), "not a multiple of 32"),
        (whole([], [tensor("t", [17])]), "it is truncated"),
        (whole([], [tensor("t", [4], offset=64)]), "it is truncated"),
        (whole([], [tensor("t", [2**63, 2**63, 2**63, 2**63])]), "it is truncated"),
        (whole([], [tensor("t", [2**62, 4])]), "it is truncated"),
        (whole([], [tensor("a", [9]), tensor("b", [1], offset=32)]), "'b' overlaps"),
        (whole([], [tensor("a", [1]), tensor("b", [1])]), "overlaps"),
        (whole([pair("general.alignment", U32, struct.pack("<I", 0))], []), "power of two"),
        (whole([pair("general.alignment", U32, struct.pack("<I", 48))], []), "power of two"),
        (whole([pair("general.alignment", U32, struct.pack("<I", 2**31))], []), "power of two"),
        (whole([pair("general.alignment", STRING, text("32"))], []), "power of two"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, content: bytes, why: str) -> None:
    assert why in refused(tmp_path, content)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be opened"):
        read_header(tmp_path / "missing.gguf")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_header(tmp_path)
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_header(tmp_path / "pipe.gguf")


def test_the_file_is_closed(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    written(tmp_path / "good.gguf")
    read_header(tmp_path / "good.gguf")
    refused(tmp_path, b"GGUF")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_header_longer_than_one_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    written(path)
    expected = read_header(path)
    for chunk in (1, 7, random.Random(0).randint(8, 500)):
        monkeypatch.setattr(reader, "CHUNK", chunk)
        assert read_header(path) == expected
