"""Quantised folders that would load with other numbers than were meant, or not at all, for what their config says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tiny_checkpoints
from tests.weights.packers import COMPRESSED, PACKERS, STEM, Tensors, random_layer
from tests.weights.tampering import edit_config, edit_tensors, logits

from ostro.core.errors import CheckpointError, ConfigError
from ostro.weights.loader import load_model

GROUPS = {"gptq": "g_idx", "gptq_v2": "g_idx", "pack-quantized": "weight_g_idx", "int-quantized": "weight_g_idx"}

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.make("mistral-blocks", tmp_path_factory.mktemp("dense") / "model").folder


@pytest.fixture
def make(dense: Path, tmp_path: Path) -> Make:
    """A folder in which the projections of one layer's attention are quantised."""

    def make(kind: str, bits: int = 4, size: int = 32, *, act_order: bool = False) -> Path:
        folder = Path(shutil.copytree(dense, tmp_path / "model"))
        config: dict[str, Any] = {}

        def quantise(tensors: Tensors) -> None:
            for seed, name in enumerate(sorted(name for name in tensors if "layers.0.self_attn" in name)):
                outputs, inputs = tensors.pop(name).shape
                layer = random_layer(seed, bits, size, (outputs, inputs), symmetric=True, act_order=act_order)
                found, parts = PACKERS[kind](layer)
                config.update(found)
                tensors.update({f"{name.removesuffix('.weight')}.{part}": value for part, value in parts.items()})

        edit_tensors(folder, quantise)
        edit_config(folder, lambda values: values.update(quantization_config=config))
        return folder

    return make


def edit_quantization(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    edit_config(folder, lambda values: change(values["quantization_config"]))


def set_actorder(folder: Path, value: object) -> None:
    edit_quantization(folder, lambda config: config["config_groups"]["group_0"]["weights"].update(actorder=value))


# The groups that inputs are in


@pytest.mark.parametrize("kind", GROUPS)
def test_inputs_grouped_by_activation_need_their_groups(make: Make, kind: str) -> None:
    folder, name = make(kind, act_order=True), f"{STEM}.{GROUPS[kind]}"
    load_model(folder)
    edit_tensors(folder, lambda tensors: tensors.update({name: torch.full_like(tensors[name], -1)}))
    with pytest.raises(CheckpointError, match=rf"'{name}' holds only -1, but .* grouped by activation"):
        load_model(folder)
    edit_tensors(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(CheckpointError, match=rf"'{name}' is missing, but .* grouped by activation"):
        load_model(folder)


def test_gptq_groups_in_their_order_are_enough(make: Make) -> None:
    folder = make("gptq")
    before = logits(load_model(folder))
    edit_quantization(folder, lambda config: config.update(desc_act=True))
    assert torch.equal(logits(load_model(folder)), before)


def test_one_group_a_row_needs_no_groups(make: Make) -> None:
    folder = make("gptq", size=-1)
    before = logits(load_model(folder))
    edit_quantization(folder, lambda config: config.update(desc_act=True))
    edit_tensors(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.endswith("g_idx")])
    assert torch.equal(logits(load_model(folder)), before)


@pytest.mark.parametrize("kind", COMPRESSED)
def test_what_compressed_tensors_says_of_activation_order(make: Make, kind: str) -> None:
    folder = make(kind)
    before = logits(load_model(folder))
    for value in ("weight", "Static", False):
        set_actorder(folder, value)
        assert torch.equal(logits(load_model(folder)), before)
    for value in ("group", "Dynamic", True):
        set_actorder(folder, value)
        with pytest.raises(CheckpointError, match="grouped by activation"):
            load_model(folder)
    for value in ("column", 1.5, ["group"]):
        set_actorder(folder, value)
        with pytest.raises(ConfigError, match="the activation order"):
            load_model(folder)


# Zero points


@pytest.mark.parametrize("bits", [4, 8])
def test_zero_points_of_another_format_than_the_config_says(make: Make, bits: int) -> None:
    folder = make("gptq", bits)
    load_model(folder)
    edit_quantization(folder, lambda config: config.update(checkpoint_format="gptq_v2"))
    less = 2 ** (bits - 1) - 1
    with pytest.raises(CheckpointError, match=rf"qzeros' holds zero points from {less} to {less}.*checkpoint_format"):
        load_model(folder)


def test_symmetric_zero_points_that_no_format_makes(make: Make) -> None:
    folder, name = make("gptq"), f"{STEM}.qzeros"
    edit_tensors(folder, lambda tensors: tensors[name][0, :1].add_(1))
    with pytest.raises(CheckpointError, match=rf"'{name}' holds zero points from 8 to 9.*8 is expected"):
        load_model(folder)


# Patterns


@pytest.mark.timeout(60)
@pytest.mark.parametrize("key", ["targets", "ignore"])
def test_a_pattern_that_python_would_not_finish(make: Make, key: str) -> None:
    folder = make("pack-quantized")
    before = logits(load_model(folder))

    def change(config: dict[str, Any]) -> None:
        (config["config_groups"]["group_0"] if key == "targets" else config)[key].insert(0, "re:(.+)+#")

    edit_quantization(folder, change)
    assert torch.equal(logits(load_model(folder)), before)


# Where older versions of the makers' tools put what they have to say


def move_quantization(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """From config.json into a file of its own."""
    found: dict[str, Any] = {}
    edit_config(folder, lambda values: found.update(values.pop("quantization_config")))
    change(found)
    (folder / name).write_text(json.dumps(found))


def test_a_config_of_autogptq(make: Make) -> None:
    folder = make("gptq", act_order=True)
    before = logits(load_model(folder))

    def as_autogptq(config: dict[str, Any]) -> None:
        del config["quant_method"], config["checkpoint_format"]
        config |= {"damp_percent": 0.01, "true_sequential": True, "static_groups": False, "is_marlin_format": False}
        config |= {"model_name_or_path": None, "model_file_base_name": None}

    move_quantization(folder, "quantize_config.json", as_autogptq)
    (folder / "model.safetensors").rename(folder / "gptq_model-4bit-64g.safetensors")
    assert torch.equal(logits(load_model(folder)), before)
    # config.json comes first.
    edit_config(folder, lambda values: values.update(quantization_config={"quant_method": "hqq"}))
    with pytest.raises(ConfigError, match="hqq"):
        load_model(folder)
    edit_config(folder, lambda values: values.update(quantization_config=None))
    edit_config(folder, lambda values: values.update(is_marlin_format=True), "quantize_config.json")
    with pytest.raises(ConfigError, match="marlin"):
        load_model(folder)
    (folder / "quantize_config.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"quantize_config\.json must hold a JSON object"):
        load_model(folder)


@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json"])
def test_a_config_of_autoawq(make: Make, name: str) -> None:
    folder = make("awq")
    before = logits(load_model(folder))

    def as_autoawq(config: dict[str, Any]) -> None:
        config.clear()
        config |= {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}

    move_quantization(folder, name, as_autoawq)
    assert torch.equal(logits(load_model(folder)), before)


@pytest.mark.parametrize("method", ["compressed-tensors", "sparseml", None])
@pytest.mark.parametrize("kind", COMPRESSED)
def test_the_older_name_of_compressed_tensors(make: Make, kind: str, method: str | None) -> None:
    folder = make(kind)
    before = logits(load_model(folder))
    edit_quantization(folder, lambda config: config.update(quant_method=method))
    edit_config(folder, lambda values: values.update(compression_config=values.pop("quantization_config")))
    assert torch.equal(logits(load_model(folder)), before)
    edit_config(folder, lambda values: values.update(compression_config=[1]))
    with pytest.raises(ConfigError, match="must be a JSON object"):
        load_model(folder)
