"""GPTQ, AWQ and compressed-tensors folders: what is packed is read back, and what makers vary is understood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from tests import tiny_checkpoints
from tests.weights.packers import (
    COMPRESSED,
    IN_WORDS,
    NAME,
    PACKERS,
    STEM,
    Layer,
    Tensors,
    random_layer,
    read,
    reader_of,
    stored,
)
from tests.weights.tampering import edit_config, edit_tensors

from ostro.core.errors import CheckpointError
from ostro.kernels.packed_linear.layout import Scheme, pack, unpack
from ostro.models.layers.linear import Linear
from ostro.models.names import hf_names
from ostro.weights import quantised
from ostro.weights.loader import load_model
from ostro.weights.quantised import words

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.safetensors"))


@st.composite
def layers(draw: st.DrawFn, kind: str) -> Layer:
    bits = 4 if kind == "awq" else draw(st.sampled_from([4, 8]))
    size = draw(st.sampled_from([32, 64, 128, -1]))
    outputs = draw(st.integers(1, 4)) * 8 if kind in IN_WORDS else draw(st.integers(1, 20))
    if size == -1:
        inputs = draw(st.integers(1, 9)) * 8 if kind in IN_WORDS else draw(st.integers(1, 70))
    else:
        inputs = size * draw(st.integers(1, 3))
    act_order = kind != "awq" and draw(st.booleans())
    return random_layer(
        draw(st.integers(0, 2**32)), bits, size, (outputs, inputs), symmetric=draw(st.booleans()), act_order=act_order
    )


@pytest.mark.parametrize("kind", PACKERS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_what_is_packed_is_read_back(kind: str, data: st.DataObject) -> None:
    layer = data.draw(layers(kind))
    outputs, inputs = layer.codes_OI.shape
    codes = read(PACKERS[kind](layer), (outputs, inputs))
    assert codes.scheme == Scheme(layer.bits, max(layer.size, 0), shifted=not layer.symmetric)
    assert torch.equal(codes.scales_OG, layer.scales_OG)
    assert (codes.order_I is not None) == layer.act_order
    order_I = torch.arange(inputs) if codes.order_I is None else codes.order_I
    assert torch.equal(order_I.sort().values, torch.arange(inputs))
    assert torch.equal(codes.codes_OI, layer.codes_OI[:, order_I].to(torch.uint8))
    # Sorted by group, and within a group in their old order.
    places = layer.groups_I[order_I] * inputs + order_I
    assert (places[1:] > places[:-1]).all()
    if layer.symmetric:
        assert codes.shifts_OG is None
        assert torch.equal(codes.dequantise(), layer.values())
    else:
        assert codes.shifts_OG is not None
        meant = layer.scales_OG.float() * layer.zeros_OG
        assert torch.equal(codes.shifts_OG, (-meant).half())
        moved = (codes.dequantise() - layer.values()).abs()
        assert (moved <= (meant[:, layer.groups_I] * 1.001 + 1e-4) * 2.0**-11).all()


@pytest.mark.parametrize("kind", PACKERS)
def test_what_is_read_can_be_packed(kind: str) -> None:
    layer = random_layer(0, 4, 32, (40, 96), symmetric=False, act_order=kind != "awq")
    codes = read(PACKERS[kind](layer), (40, 96))
    assert torch.equal(unpack(pack(codes)).dequantise(), codes.dequantise())


@pytest.mark.parametrize("kind", PACKERS)
def test_rows_are_read_alike_wherever_the_matrix_is_cut(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = random_layer(1, 4, 32, (40, 96), symmetric=False, act_order=kind != "awq")
    monkeypatch.setattr(words, "CHUNK", 17 * 96)
    codes = read(PACKERS[kind](layer), (40, 96))
    order_I = torch.arange(96) if codes.order_I is None else codes.order_I
    assert torch.equal(codes.codes_OI, layer.codes_OI[:, order_I].to(torch.uint8))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_what_the_makers_wrote(path: Path) -> None:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        config = json.loads(file.metadata()["quantization_config"])
    expected = tensors.pop("expected")
    stored = config, {name.removeprefix("layer."): value for name, value in tensors.items()}
    codes = read(stored, (expected.shape[0], expected.shape[1]))
    assert codes.scheme.shifted == ("zeros" in path.stem or path.stem in ("awq_int4", "gptq_int8_row"))
    assert codes.scheme.bits == (4 if "int4" in path.stem else 8)
    assert (codes.order_I is not None) == ("act_order" in path.stem)
    if codes.scheme.shifted:
        # The zero point of a row is within 2^bits steps of 0: half a float16 of that is what it may move.
        assert (codes.dequantise() - expected).abs().max() <= expected.abs().max() * 2**-10
    else:
        assert torch.equal(codes.dequantise(), expected)


def test_all_the_makers_are_there() -> None:
    assert {path.stem.split("_")[0] for path in GOLDEN} == {"gptq", "awq", "compressed"}


# Folders


@pytest.mark.parametrize("kind", PACKERS)
def test_a_folder_loads(kind: str, tmp_path: Path) -> None:
    """Projections quantised, the rest dense; q, k and v have columns in different orders."""
    folder = tiny_checkpoints.make("mistral-blocks", tmp_path).folder
    meant: Tensors = {}
    configs: list[dict[str, Any]] = []

    def quantise(tensors: Tensors) -> None:
        for seed, name in enumerate(sorted(name for name in tensors if name.endswith("_proj.weight"))):
            shape = tensors.pop(name).shape
            layer = random_layer(
                seed, 4, 32, (shape[0], shape[1]), symmetric=seed % 2 == 0, act_order=kind != "awq" and seed % 3 == 0
            )
            config, parts = PACKERS[kind](layer)
            configs.append(config)
            meant[name] = layer.values()
            tensors.update({f"{name.removesuffix('.weight')}.{part}": value for part, value in parts.items()})

    edit_tensors(folder, quantise)
    # Some layers have zero points: that is what the config has to say of all.
    edit_config(folder, lambda values: values.update(quantization_config=configs[1]))
    if kind in COMPRESSED:
        edit_tensors(folder, lambda tensors: fill_zero_points(kind, tensors))
    model = load_model(folder)
    assert model.quantised
    for binding in hf_names(model.config):
        if binding.source not in meant:
            continue
        module = model.get_submodule(binding.target)
        assert isinstance(module, Linear)
        assert torch.allclose(module.part(binding.part), meant[binding.source], atol=2e-3)
        x_TI = torch.randn(3, module.in_features)
        dense = torch.cat([module.part(name) for name in module.slices])
        error = (module(x_TI) - x_TI @ dense.T).norm() / (x_TI @ dense.T).norm()
        assert error < 0.02  # Activations have 8 bits.


def fill_zero_points(kind: str, tensors: Tensors) -> None:
    """Zero points of zero where there are none."""
    for name in [name for name in tensors if name.endswith("weight_scale")]:
        rows, groups = tensors[name].shape
        zero = name.replace("_scale", "_zero_point")
        packed = torch.full((rows // 8, groups), -0x77777778, dtype=torch.int32)  # 0x88888888
        plain = torch.zeros(rows, groups, dtype=torch.int8)
        tensors.setdefault(zero, packed if kind == "pack-quantized" else plain)


# Which weights are quantised


@pytest.mark.parametrize("kind", IN_WORDS)
def test_parts(kind: str) -> None:
    config, tensors = stored(kind)
    reader = reader_of(config, f"{STEM}.qweight", "lm_head.weight")
    assert set(reader.parts(NAME)) == {f"{STEM}.{part}" for part in (*tensors, "bias")}
    assert not reader.parts("lm_head.weight")


@pytest.mark.parametrize("kind", COMPRESSED)
@pytest.mark.parametrize("ignore", [NAME.removesuffix(".weight"), r"re:.*self_attn\.q_proj$", "Linear"])
def test_what_is_ignored_is_dense(kind: str, ignore: str) -> None:
    config, _ = stored(kind)
    names = [f"{STEM}.weight_packed", f"{STEM}.weight", f"{STEM}.weight_scale"]
    names = names[:1] if kind == "pack-quantized" else names[1:]
    assert reader_of(config, *names).parts(NAME)
    ignoring = {**config, "ignore": ["lm_head", ignore]}
    assert not reader_of(ignoring, NAME).parts(NAME)
    if kind == "pack-quantized":
        with pytest.raises(CheckpointError, match=r"q_proj.weight_packed' is stored, but .* 'ignore'"):
            reader_of(ignoring, *names).parts(NAME)


@pytest.mark.parametrize("kind", COMPRESSED)
def test_what_is_stored_dense_is_dense(kind: str) -> None:
    config, _ = stored(kind)
    assert not reader_of(config, NAME).parts(NAME)


def test_a_name_fits_better_than_a_pattern_and_a_pattern_better_than_a_class() -> None:
    config, tensors = stored("pack-quantized")
    (group,) = config["config_groups"].values()

    def other(targets: list[str], bits: int) -> dict[str, Any]:
        return {**group, "targets": targets, "weights": {**group["weights"], "num_bits": bits}}

    by_pattern = {"a": other(["Linear"], 8), "b": other([r"re:.*q_proj"], 4)}
    assert read(({**config, "config_groups": by_pattern}, tensors), (16, 64)).scheme.bits == 4
    by_name = {"a": other([STEM], 4), "b": other(["Linear"], 8), "c": other([r"re:.*q_proj"], 8)}
    assert read(({**config, "config_groups": by_name}, tensors), (16, 64)).scheme.bits == 4
    # A pattern is matched from the beginning, and an embedding is no linear layer.
    for targets in (["re:q_proj"], ["Embedding"], []):
        with pytest.raises(CheckpointError, match="none of the targets"):
            read(({**config, "config_groups": {"a": other(targets, 4)}}, tensors), (16, 64))
    embedding = {**config, "config_groups": {"a": other(["Embedding"], 4)}}
    assert reader_of(embedding, "model.embed_tokens.weight_packed").parts("model.embed_tokens.weight")


def test_a_format_of_a_group_comes_first() -> None:
    config, tensors = stored("int-quantized")
    config["config_groups"]["group_0"]["format"] = "int-quantized"
    assert read(({**config, "format": "mixed-precision"}, tensors), (16, 64)).scheme.bits == 4


def test_fp8_is_left_to_the_loader() -> None:
    for method in ("fp8", "fbgemm_fp8", None):
        assert quantised.find({"quant_method": method}, [NAME]) is None
    config, _ = stored("int-quantized")
    config["format"] = "float-quantized"
    config["config_groups"]["group_0"]["weights"] = {"num_bits": 8, "type": "float", "strategy": "tensor"}
    assert not reader_of(config, NAME, f"{STEM}.weight_scale").parts(NAME)


# What makers vary


def test_symmetric_zero_points_that_are_not_less_one() -> None:
    """Some say "gptq" and store 8; the config says that they are symmetric."""
    layer = random_layer(0, 4, 32, (16, 64), symmetric=True)
    config, tensors = PACKERS["gptq_v2"](layer)
    codes = read(({**config, "checkpoint_format": "gptq"}, tensors), (16, 64))
    assert torch.equal(codes.dequantise(), layer.values())
    without = {**config, "checkpoint_format": "gptq", "sym": False}
    assert read((without, tensors), (16, 64)).scheme.shifted


def test_gptq_without_format_and_group_index() -> None:
    layer = random_layer(0, 8, -1, (16, 64), symmetric=True)
    config, tensors = PACKERS["gptq"](layer)
    del config["checkpoint_format"], tensors["g_idx"], tensors["bias"]
    config["dynamic"] = {r"-:.*lm_head": {}}
    assert torch.equal(read((config, tensors), (16, 64)).dequantise(), layer.values())


def test_symmetric_compressed_tensors_with_zero_points() -> None:
    for kind in COMPRESSED:
        config, tensors = stored(kind)
        tensors["weight_zero_point"] = torch.zeros(16, 2, dtype=torch.int8)
        tensors["weight_g_idx"] = torch.full((64,), -1)  # Not initialised.
        tensors["input_scale"] = torch.ones(1)
        codes = read((config, tensors), (16, 64))
        assert not codes.scheme.shifted
        assert codes.order_I is None


def test_strategies_that_follow_from_the_group_size() -> None:
    config, tensors = stored("pack-quantized")
    config["config_groups"]["group_0"]["weights"]["strategy"] = None
    assert read((config, tensors), (16, 64)).scheme.group_size == 32
    config["config_groups"]["group_0"]["weights"]["group_size"] = -1
    tensors["weight_scale"] = torch.ones(16, 1)
    assert read((config, tensors), (16, 64)).scheme.group_size == 0
