"""GGUF's block types as codes, against the gguf package's own arithmetic; and whole files of them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf import quants
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ostro.core.errors import CheckpointError
from ostro.kernels.packed_linear.layout import Codes, Scheme, pack, unpack
from ostro.weights import gguf_blocks
from ostro.weights.gguf_file import GGUFFile

EXACT = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
K = ["Q4_K", "Q5_K", "Q6_K"]
SCHEMES = {
    "Q4_0": Scheme(4, 32),
    "Q4_1": Scheme(4, 32, shifted=True),
    "Q5_0": Scheme(8, 32),
    "Q5_1": Scheme(8, 32, shifted=True),
    "Q8_0": Scheme(8, 32),
    "Q4_K": Scheme(4, 32, shifted=True),
    "Q5_K": Scheme(8, 32, shifted=True),
    "Q6_K": Scheme(8, 32),
}
# Where a block holds its float16 numbers.
HALVES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}
Array = np.ndarray[Any, Any]


def random_blocks(kind: str, rows: int, blocks: int, seed: int, magnitude: float = 1e-3) -> Array:
    """Rows of random blocks, every bit of them; only d and m are of a certain size, with either sign."""
    rng = np.random.default_rng(seed)
    width = gguf.GGML_QUANT_SIZES[Type[kind]][1]
    raw = rng.integers(0, 256, (rows, blocks, width), dtype=np.uint8)
    for at in HALVES[kind]:
        numbers = (rng.standard_normal((rows, blocks)) * magnitude).astype(np.float16)
        raw[..., at : at + 2] = numbers[..., None].view(np.uint8)
    return raw.reshape(rows, -1)


def decoded(kind: str, raw: Array) -> Codes:
    weights, width = gguf.GGML_QUANT_SIZES[Type[kind]]
    shape = (raw.shape[0], raw.shape[1] // width * weights)
    rows = torch.from_numpy(raw)
    return gguf_blocks.decode("'t'", kind, shape, lambda first, count: rows[first : first + count])


def meant(kind: str, raw: Array) -> torch.Tensor:
    return torch.from_numpy(quants.dequantize(raw, Type[kind]))


@pytest.mark.parametrize("kind", EXACT)
@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32), st.sampled_from([1e-7, 1e-3, 1.0, 1000.0]))
def test_no_value_changes(kind: str, rows: int, blocks: int, seed: int, magnitude: float) -> None:
    raw = random_blocks(kind, rows, blocks, seed, magnitude)
    codes = decoded(kind, raw)
    assert codes.scheme == SCHEMES[kind]
    assert torch.equal(codes.dequantise(), meant(kind, raw))


@pytest.mark.parametrize("kind", EXACT)
def test_what_the_package_quantises(kind: str) -> None:
    weights = np.random.default_rng(0).standard_normal((6, 96)).astype(np.float32)
    raw = quants.quantize(weights, Type[kind])
    assert torch.equal(decoded(kind, raw).dequantise(), meant(kind, raw))


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K"])
@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32), st.sampled_from([1e-7, 1e-4, 1.0]))
def test_k_types_move_by_the_rounding_of_their_scales(
    kind: str, rows: int, blocks: int, seed: int, magnitude: float
) -> None:
    raw = random_blocks(kind, rows, blocks, seed, magnitude)
    codes = decoded(kind, raw)
    assert codes.scheme == SCHEMES[kind]
    assert codes.shifts_OG is not None
    scaled = codes.codes_OI.view(rows, -1, 32) * codes.scales_OG.float()[..., None]
    bound = 2.0**-11 * (scaled.abs() + codes.shifts_OG.float().abs()[..., None]) * 1.001
    moved = (codes.dequantise() - meant(kind, raw)).view(rows, -1, 32).abs()
    assert (moved <= bound).all()


@settings(deadline=None, max_examples=60)
@example(rows=1, blocks=2, seed=0, magnitude=6e-8)  # A largest value that rounds to the code behind the last.
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32), st.sampled_from([6e-8, 1e-7, 1e-5, 1e-3, 1.0]))
def test_q6_k_moves_by_half_a_step(rows: int, blocks: int, seed: int, magnitude: float) -> None:
    raw = random_blocks("Q6_K", rows, blocks, seed, magnitude)
    codes = decoded("Q6_K", raw)
    assert codes.scheme == SCHEMES["Q6_K"]
    values = meant("Q6_K", raw).view(rows, -1, 32)
    moved = (codes.dequantise().view(rows, -1, 32) - values).abs()
    assert (moved <= codes.scales_OG.float()[..., None] / 2 * 1.00001).all()
    peaks = values.abs().amax(-1, keepdim=True)
    assert (moved <= peaks / 254 * (1 + 2.0**-10) + 2.0**-25).all()


@pytest.mark.parametrize("kind", [*EXACT, *K])
def test_a_block_of_zeros_is_zero(kind: str) -> None:
    weights, width = gguf.GGML_QUANT_SIZES[Type[kind]]
    assert not decoded(kind, np.zeros((2, width), np.uint8)).dequantise().any()
    assert decoded(kind, np.zeros((2, width), np.uint8)).codes_OI.shape == (2, weights)


@pytest.mark.parametrize("kind", [*EXACT, *K])
def test_rows_are_decoded_alike_wherever_the_matrix_is_cut(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = random_blocks(kind, 11, 2, seed=3)
    expected = decoded(kind, raw)
    monkeypatch.setattr(gguf_blocks, "CHUNK", 3 * expected.codes_OI.shape[1])
    again = decoded(kind, raw)
    assert torch.equal(again.codes_OI, expected.codes_OI)
    assert torch.equal(again.dequantise(), expected.dequantise())


@pytest.mark.parametrize("kind", [*EXACT, *K])
def test_the_codes_can_be_packed(kind: str) -> None:
    codes = decoded(kind, random_blocks(kind, 40, 1, seed=1))
    assert int(codes.codes_OI.max()) < 1 << codes.scheme.bits
    assert torch.equal(unpack(pack(codes)).dequantise(), codes.dequantise())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("kind", "at"), [(kind, at) for kind, places in HALVES.items() for at in places])
def test_scales_that_are_not_finite(kind: str, at: int, bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_blocks, "CHUNK", 1)
    raw = random_blocks(kind, 3, 2, seed=0)
    width = gguf.GGML_QUANT_SIZES[Type[kind]][1]
    raw[2, width + at : width + at + 2] = np.array([bad], np.float16).view(np.uint8)
    # With whole numbers of zero an infinite d would be no number, which is not finite either.
    with pytest.raises(CheckpointError, match="'t' has a scale or minimum that is not a finite number"):
        decoded(kind, raw)


def test_scales_beyond_float16() -> None:
    raw = random_blocks("Q4_K", 1, 1, seed=0)
    raw[0, :2] = np.array([60_000], np.float16).view(np.uint8)
    raw[0, 4:16] = 255
    with pytest.raises(CheckpointError, match="'t' has a scale"):
        decoded("Q4_K", raw)


def test_other_types_are_named() -> None:
    with pytest.raises(CheckpointError, match=r"'t' is of the type IQ4_XS.*Q4_0.*Q6_K are"):
        gguf_blocks.decode("'t'", "IQ4_XS", (2, 256), lambda first, count: torch.empty(0))


def test_only_matrices_are_quantised() -> None:
    with pytest.raises(CheckpointError, match=r"\[2, 1, 32\]; only matrices"):
        gguf_blocks.decode("'t'", "Q4_0", (2, 1, 32), lambda first, count: torch.empty(0))


def test_a_feed_forward_matrix_takes_well_under_a_second() -> None:
    raw = np.zeros((4096, 14336 // 32 * 18), np.uint8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # Others may use the machine too: what counts is the work, not the waiting.
    try:
        start = time.thread_time()
        codes = decoded("Q4_0", raw)
        assert time.thread_time() - start < 0.5
    finally:
        torch.set_num_threads(threads)
    assert codes.codes_OI.shape == (4096, 14336)


def write(path: Path, dense: dict[str, Array], quantised: dict[str, tuple[str, Array]]) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    for name, values in dense.items():
        writer.add_tensor(name, values)
    for name, (kind, raw) in quantised.items():
        writer.add_tensor(name, raw, raw_dtype=Type[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_of_every_type(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    dense: dict[str, Array] = {
        "f32": rng.standard_normal((3, 5)).astype(np.float32),
        "norm": rng.random(7).astype(np.float16),
    }
    raws = {kind: (kind, random_blocks(kind, 3, 2, seed=5)) for kind in [*EXACT, *K]}
    half = torch.randn(4, 6).bfloat16()
    raws["half"] = ("BF16", half.view(torch.uint8).numpy())
    with GGUFFile(write(tmp_path / "m.gguf", dense, raws)) as file:
        assert file.metadata["general.architecture"] == "llama"
        for name, values in dense.items():
            assert torch.equal(file.read(name), torch.from_numpy(values))  # type: ignore[arg-type]  # a tensor
        assert torch.equal(file.read("half"), half)  # type: ignore[arg-type]  # a tensor
        for kind in [*EXACT, *K]:
            codes = file.read(kind)
            assert isinstance(codes, Codes)
            # The shape is [out, in], though the file has it the other way round.
            assert codes.codes_OI.shape == file.tensors[kind].shape == (3, 2 * gguf.GGML_QUANT_SIZES[Type[kind]][0])
            assert torch.equal(codes.dequantise(), decoded(kind, raws[kind][1]).dequantise())


def test_errors_name_the_file_and_the_tensor(tmp_path: Path) -> None:
    bad = np.ones((2, 3), np.float32)
    bad[1, 2] = np.nan
    scale = np.zeros((2, 18), np.uint8)
    scale[1, :2] = np.array([np.inf], np.float16).view(np.uint8)
    other = np.zeros((1, 136), np.uint8)
    path = write(tmp_path / "m.gguf", {"a": bad}, {"b": ("Q4_0", scale), "c": ("IQ4_XS", other)})
    with GGUFFile(path) as file:
        for name, why in {"a": "not finite", "b": "scale", "c": "type IQ4_XS"}.items():
            with pytest.raises(CheckpointError, match=rf"m\.gguf: '{name}' .*{why}"):
                file.read(name)
        with pytest.raises(CheckpointError, match=r"m\.gguf lacks the tensor 'd'"):
            file.read("d")


def test_memory_stays_at_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the raw bytes of a tensor are held at once."""
    monkeypatch.setattr(gguf_blocks, "CHUNK", 1024)
    path = write(tmp_path / "m.gguf", {}, {"q": ("Q8_0", random_blocks("Q8_0", 64, 8, seed=0))})
    asked: list[int] = []
    with GGUFFile(path) as file:
        read = file._read_bytes

        def watched(offset: int, size: int) -> torch.Tensor:
            asked.append(size)
            return read(offset, size)

        monkeypatch.setattr(file, "_read_bytes", watched)
        file.read("q")
    assert max(asked) == 4 * 8 * 34
    assert sum(asked) == 64 * 8 * 34


def test_the_file_is_closed_and_may_shrink(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", {"a": np.zeros((100, 100), np.float32)}, {})
    before = len(os.listdir("/proc/self/fd"))
    with GGUFFile(path) as file:
        assert len(os.listdir("/proc/self/fd")) == before + 1
        os.truncate(path, 5000)
        with pytest.raises(CheckpointError, match="ended while it was being read"):
            file.read("a")
    assert len(os.listdir("/proc/self/fd")) == before
    path.write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="not a whole GGUF file"):
        GGUFFile(path)
    assert len(os.listdir("/proc/self/fd")) == before
