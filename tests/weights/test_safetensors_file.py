"""The safetensors reader: what the library writes is read exactly, and nothing malformed gets past the header."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ostro.core.errors import CheckpointError
from ostro.weights.safetensors_file import DTYPES, SafetensorsFile

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def file_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def refused(path: Path, content: bytes) -> str:
    """The message; it always names the file."""
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        SafetensorsFile(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_every_type_is_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    generator = torch.Generator().manual_seed(0)
    written = {
        name: torch.randint(0, 2, (3, 5), generator=generator).to(dtype)
        if dtype == torch.bool
        else (torch.rand(3, 5, generator=generator) * 100).to(dtype)
        for name, dtype in DTYPES.items()
    }
    written |= {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 4), "deep": torch.rand(1, 2, 1, 3)}
    save_file(written, path, metadata={"format": "pt"})
    with SafetensorsFile(path) as file:
        assert file.tensors.keys() == written.keys()
        for name, value in written.items():
            entry = file.tensors[name]
            assert entry.shape == tuple(value.shape)
            read = file.read(entry)
            assert read.dtype == value.dtype
            assert torch.equal(
                read.view(torch.uint8) if value.dim() else read, value.view(torch.uint8) if value.dim() else value
            )


def test_reading_into_memory_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(12.0).view(3, 4)}, path)
    stacked = torch.zeros(5, 4)
    with SafetensorsFile(path) as file:
        file.read_into(file.tensors["a"], stacked[1:4])
    assert torch.equal(stacked[1:4], torch.arange(12.0).view(3, 4))
    assert not stacked[0].any()
    assert not stacked[4].any()


def test_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    before = len(os.listdir("/proc/self/fd"))
    with SafetensorsFile(path):
        assert len(os.listdir("/proc/self/fd")) == before + 1
    for _ in range(5):
        refused(tmp_path / "broken", b"123")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1000)}, path)
    with SafetensorsFile(path) as file:
        os.truncate(path, 2000)
        with pytest.raises(CheckpointError, match=r"model\.safetensors ended"):
            file.read(file.tensors["a"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x02",
        b"\x02\x00\x00\x00\x00\x00\x00",
        (0).to_bytes(8, "little"),
        (1).to_bytes(8, "little") + b"{}",
        (3).to_bytes(8, "little") + b"{}",
        (2**63).to_bytes(8, "little") + b"{}",
        (2**64 - 1).to_bytes(8, "little") + b"{}",
        (100_000_001).to_bytes(8, "little") + b"{}" * 50,
        b"PK\x03\x04 a zip, as PyTorch saves pickles",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 14483498224\n",
    ],
)
def test_a_wrong_length(tmp_path: Path, content: bytes) -> None:
    assert "not a whole safetensors file" in refused(tmp_path / "model.safetensors", content)


@pytest.mark.parametrize(
    "header",
    [
        b"  ",
        b"{]",
        b"\xff\xfe\x00\x01",
        b"[]",
        b"null",
        b'"text"',
        b'{"a": 1',
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b"{" + b", ".join([b'"a": {"dtype": "U8", "shape": [], "data_offsets": [0, 1]}'] * 2) + b"}",
    ],
)
def test_a_header_that_is_not_a_json_object(tmp_path: Path, header: bytes) -> None:
    assert "header" in refused(tmp_path / "model.safetensors", file_of(header, b"\0"))


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": None},
        {"dtype": ["F32"]},
        {"dtype": {"F32": 1}},
        {"shape": None},
        {"shape": 2},
        {"shape": "2"},
        {"shape": [2.0]},
        {"shape": [True, 2]},
        {"shape": ["2"]},
        {"shape": [[2]]},
        {"shape": [float("inf")]},
        {"shape": [float("nan")]},
        {"shape": [2**63]},
        {"shape": [-2]},
        {"shape": [-1, -2]},
        {"data_offsets": None},
        {"data_offsets": [0]},
        {"data_offsets": [0, 8, 8]},
        {"data_offsets": [0.0, 8.0]},
        {"data_offsets": "08"},
        {"data_offsets": [8, 0]},
        {"data_offsets": [-8, 0]},
        {"data_offsets": [0, 4]},
        {"data_offsets": [0, 12]},
        {"data_offsets": [4, 12]},
        {"data_offsets": [2**62, 2**62 + 8]},
        {"data_offsets": [0, float("inf")]},
    ],
    ids=str,
)
def test_a_malformed_entry_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    message = refused(tmp_path / "model.safetensors", file_of({"layer.weight": {**ENTRY, **change}}, b"\0" * 8))
    assert "'layer.weight'" in message


@pytest.mark.parametrize("key", sorted(ENTRY))
def test_an_entry_without_a_key(tmp_path: Path, key: str) -> None:
    entry = {name: value for name, value in ENTRY.items() if name != key}
    assert "'a'" in refused(tmp_path / "model.safetensors", file_of({"a": entry}, b"\0" * 8))


@pytest.mark.parametrize("entry", [None, 3, "F32", [], ["dtype", "shape", "data_offsets"]])
def test_an_entry_that_is_no_object(tmp_path: Path, entry: Any) -> None:
    assert "'a'" in refused(tmp_path / "model.safetensors", file_of({"a": entry}, b"\0" * 8))


def test_an_unknown_type_is_named(tmp_path: Path) -> None:
    message = refused(tmp_path / "model.safetensors", file_of({"a": {**ENTRY, "dtype": "F4"}}, b"\0" * 8))
    assert "'a'" in message
    assert "'F4'" in message


def test_a_truncated_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(8), "b": torch.zeros(8)}, path)
    whole = path.read_bytes()
    for cut in (1, 31, 32, 33, 64):
        assert "truncated" in refused(path, whole[:-cut])
    for cut in range(65, len(whole) + 1):
        refused(path, whole[:-cut])


def test_data_is_covered_exactly(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"

    def two(begin: int) -> dict[str, Any]:
        return {"a": ENTRY, "b": {**ENTRY, "data_offsets": [begin, begin + 8]}}

    path.write_bytes(file_of(two(8), bytes(16)))
    with SafetensorsFile(path) as file:
        assert len(file.tensors) == 2
    assert "'b' overlaps" in refused(path, file_of(two(4), bytes(12)))
    assert "overlaps" in refused(path, file_of(two(0), bytes(8)))
    assert "'b' leaves a hole" in refused(path, file_of(two(12), bytes(20)))
    assert "hole" in refused(path, file_of({"a": {**ENTRY, "data_offsets": [4, 12]}}, bytes(12)))
    assert "end at byte" in refused(path, file_of(two(8), bytes(17)))


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing.*cannot be opened"):
        SafetensorsFile(tmp_path / "nothing")
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*not a regular file"):
        SafetensorsFile(tmp_path / "model.safetensors")


def read_all(path: Path) -> dict[str, torch.Tensor] | None:
    """Open and read everything; None where it is refused. Anything but CheckpointError escapes."""
    try:
        with SafetensorsFile(path) as file:
            return {name: file.read(entry) for name, entry in file.tensors.items()}
    except CheckpointError:
        return None


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "model.safetensors"


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("valid") / "model.safetensors"
    tensors = {"a.weight": torch.rand(3, 4), "b": torch.rand(5).to(torch.bfloat16), "c": torch.tensor(1.5)}
    save_file(tensors, path, metadata={"format": "pt"})
    return path.read_bytes()


@settings(max_examples=300)
@given(st.binary(max_size=120), st.booleans())
def test_random_bytes(scratch: Path, content: bytes, with_length: bool) -> None:
    scratch.write_bytes(file_of(content) if with_length else content)
    read_all(scratch)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(sorted(DTYPES)) | json_values,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | json_values,
        "data_offsets": st.tuples(st.integers(-1, 20), st.integers(-1, 40)) | json_values,
    },
)


@settings(max_examples=400)
@given(st.dictionaries(st.text(max_size=4), entries | json_values, max_size=3), st.integers(0, 40))
def test_random_headers(scratch: Path, header: dict[str, Any], size: int) -> None:
    scratch.write_bytes(file_of(header, bytes(size)))
    read_all(scratch)


@settings(max_examples=500)
@given(st.data())
def test_mutations_of_a_valid_file(scratch: Path, valid: bytes, data: st.DataObject) -> None:
    """Whatever is not refused is what the library itself reads."""
    content = bytearray(valid)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1)) if content else 0
        kind = data.draw(st.sampled_from(["set", "delete", "insert", "cut"]))
        if kind == "set" and content:
            content[at] = data.draw(st.integers(0, 255) | st.sampled_from(list(b'0123456789{}[]",:-')))
        elif kind == "delete":
            del content[at : at + data.draw(st.integers(1, 9))]
        elif kind == "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=5))
        else:
            del content[at:]
    scratch.write_bytes(content)
    ours = read_all(scratch)
    if ours is not None:
        theirs = load_file(scratch)
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name].dtype == value.dtype
            assert torch.equal(ours[name].reshape(-1).view(torch.uint8), value.reshape(-1).view(torch.uint8))
