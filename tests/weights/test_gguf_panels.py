"""Matrices of GGUF files read straight into panels, against blocks decoded to codes and packed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from hypothesis import given, settings
from hypothesis import strategies as st

from ostro.core.errors import CheckpointError
from ostro.kernels.packed_linear.layout import Codes, Packed, pack
from ostro.weights import gguf_file
from ostro.weights.gguf_file import GGUFFile
from ostro.weights.loader import deinterleave_codes
from weights.test_gguf_blocks import EXACT, HALVES, Array, K, random_blocks

# Blocks of a file begin where its alignment says, so a file can be written by hand around one tensor.
KINDS = [*EXACT, *K]


def write(path: Path, kind: str, raw: Array) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("before", np.zeros(5, np.float32))
    writer.add_tensor("t", raw, raw_dtype=Type[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def assert_same(found: Packed | None, expected: Packed) -> None:
    assert found is not None
    assert found.scheme == expected.scheme
    assert (found.out_features, found.in_features) == (expected.out_features, expected.in_features)
    assert torch.equal(found.panels, expected.panels)
    # Bit by bit: -0.0 and 0.0 are two things, and a shift of -m t may be either.
    assert torch.equal(found.scales.view(torch.int16), expected.scales.view(torch.int16))
    assert (found.shifts is None) == (expected.shifts is None)
    if found.shifts is not None and expected.shifts is not None:
        assert torch.equal(found.shifts.view(torch.int16), expected.shifts.view(torch.int16))


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=25)
@given(
    heads=st.integers(1, 4),
    head_dim=st.sampled_from([0, 2, 6, 16, 34, 64, 80]),
    rows=st.integers(1, 70),
    blocks=st.integers(1, 4),
    seed=st.integers(0, 2**32),
    magnitude=st.sampled_from([6e-8, 1e-6, 1e-3, 1.0]),
)
def test_panels_are_those_of_the_codes(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    heads: int,
    head_dim: int,
    rows: int,
    blocks: int,
    seed: int,
    magnitude: float,
) -> None:
    outputs = heads * head_dim or rows
    raw = random_blocks(kind, outputs, blocks, seed, magnitude)
    with GGUFFile(write(tmp_path_factory.mktemp("gguf") / "m.gguf", kind, raw)) as file:
        codes = file.read("t")
        assert isinstance(codes, Codes)
        expected = pack(deinterleave_codes(codes, head_dim) if head_dim else codes)
        assert_same(file.read_packed("t", head_dim), expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("kind", "at"), [(kind, at) for kind, places in HALVES.items() for at in places])
def test_scales_that_are_not_finite(tmp_path: Path, kind: str, at: int, bad: float) -> None:
    raw = random_blocks(kind, 35, 2, seed=0)
    width = gguf.GGML_QUANT_SIZES[Type[kind]][1]
    raw[34, width + at : width + at + 2] = np.array([bad], np.float16).view(np.uint8)
    with (
        GGUFFile(write(tmp_path / "m.gguf", kind, raw)) as file,
        pytest.raises(CheckpointError, match=r"m\.gguf: 't' has a scale or minimum that is not a finite number"),
    ):
        file.read_packed("t")


def test_scales_beyond_float16(tmp_path: Path) -> None:
    raw = random_blocks("Q4_K", 1, 1, seed=0)
    raw[0, :2] = np.array([60_000], np.float16).view(np.uint8)
    raw[0, 4:16] = 255
    with GGUFFile(write(tmp_path / "m.gguf", "Q4_K", raw)) as file, pytest.raises(CheckpointError, match="'t' has a"):
        file.read_packed("t")


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", "Q8_0", random_blocks("Q8_0", 64, 8, seed=0))
    with GGUFFile(path) as file:
        os.truncate(path, file.tensors["t"].offset + 1000)
        with pytest.raises(CheckpointError, match="ended while it was being read"):
            file.read_packed("t")


def test_what_is_no_quantised_matrix_goes_the_other_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with GGUFFile(write(tmp_path / "m.gguf", "Q8_0", random_blocks("Q8_0", 2, 1, seed=0))) as file:
        assert file.read_packed("before") is None
        monkeypatch.setattr(gguf_file, "native", None)
        assert file.read_packed("t") is None
        with pytest.raises(CheckpointError, match="lacks the tensor 'd'"):
            file.read_packed("d")


def test_no_row_is_read_in_memory_of_its_own(tmp_path: Path) -> None:
    """Panels begin at a large page, scales and shifts follow in the same piece of memory."""
    raw: Any = random_blocks("Q4_1", 4096, 128, seed=0)  # 10 MiB
    with GGUFFile(write(tmp_path / "m.gguf", "Q4_1", raw)) as file:
        packed = file.read_packed("t")
    assert packed is not None
    assert packed.shifts is not None
    assert packed.panels.data_ptr() % (1 << 21) == 0
    assert packed.scales.data_ptr() == packed.panels.data_ptr() + packed.panels.nbytes
    assert packed.shifts.data_ptr() == packed.scales.data_ptr() + packed.scales.nbytes
