"""What is wrong with a GPTQ, AWQ or compressed-tensors folder is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.weights.packers import COMPRESSED, IN_WORDS, NAME, STEM, read, reader_of, stored

from ostro.core.errors import CheckpointError, ConfigError
from ostro.weights import quantised


@pytest.mark.parametrize("method", ["bitsandbytes", "hqq", 3])
def test_unknown_methods(method: object) -> None:
    with pytest.raises(ConfigError, match=rf"{method!r}, which is not supported; ostro, gptq, awq, compressed-tensors"):
        quantised.find({"quant_method": method}, [])


@pytest.mark.parametrize("config", ["gptq", ["gptq"], 4])
def test_a_config_that_is_no_object(config: object) -> None:
    with pytest.raises(ConfigError, match="must be a JSON object"):
        quantised.find(config, [])


BAD_CONFIGS: list[tuple[str, dict[str, Any], str]] = [
    ("gptq", {"bits": 3}, "4 or 8 bits, not 3"),
    ("gptq", {"bits": "4"}, "whole numbers, not '4'"),
    ("gptq", {"group_size": 16}, "group of 16 weights"),
    ("gptq", {"group_size": -2}, "group of -2 weights"),
    ("gptq", {"checkpoint_format": "marlin"}, "'marlin'; 'gptq' and 'gptq_v2' are"),
    ("gptq", {"is_marlin_format": True}, "'marlin'"),
    ("gptq", {"pack_dtype": "int16"}, "'int16'; only int32"),
    ("gptq", {"rotation": "hadamard"}, "rotated"),
    ("gptq", {"dynamic": {"-:a": {}, r"+:.*\.1\..*": {"bits": 8}}}, "some layers otherwise"),
    ("gptq", {"dynamic": 3}, "some layers otherwise"),
    ("awq", {"version": "gemv"}, "'gemv'; only 'gemm'"),
    ("awq", {"bits": 8}, "4 bits; the config says 8"),
    ("awq", {"group_size": 48}, "group of 48 weights"),
    ("pack-quantized", {"format": "marlin-24"}, "the format 'marlin-24'"),
    ("pack-quantized", {"format": None}, "the format None"),
    ("pack-quantized", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config"),
    ("pack-quantized", {"transform_config": {"config_groups": {"u": {}}}}, "transform_config"),
    ("pack-quantized", {"config_groups": None}, "'config_groups' must map"),
    ("pack-quantized", {"config_groups": {"W4A16": ["Linear"]}}, "'config_groups' must map"),
    ("pack-quantized", {"ignore": "lm_head"}, "ignore must be a list"),
    ("pack-quantized", {"ignore": ["re:("]}, "no regular expression"),
]


@pytest.mark.parametrize(("kind", "change", "why"), BAD_CONFIGS, ids=lambda value: str(value)[:30])
def test_configs_that_are_not_supported(kind: str, change: dict[str, Any], why: str) -> None:
    config, tensors = stored(kind)
    with pytest.raises(ConfigError, match=re.escape(why)):
        read(({**config, **change}, tensors), (16, 64))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"num_bits": 3}, "4 or 8 bits, not 3"),
        ({"num_bits": 4, "type": "float"}, "type 'float' with 4 bits"),
        ({"strategy": "tensor"}, "the strategy 'tensor'"),
        ({"strategy": "block", "block_structure": [128, 128]}, "the strategy 'block'"),
        ({"strategy": None, "group_size": None}, "the strategy 'tensor'"),
        ({"group_size": None}, "whole numbers, not 4 and None"),
        ({"group_size": 16}, "group of 16 weights"),
        ({"symmetric": "yes"}, "must be true or false"),
    ],
)
def test_groups_that_are_not_supported(change: dict[str, Any], why: str) -> None:
    config, tensors = stored("pack-quantized")
    config["config_groups"]["group_0"]["weights"].update(change)
    with pytest.raises(ConfigError, match=re.escape(why)):
        read((config, tensors), (16, 64))


Damage = Callable[[torch.Tensor], torch.Tensor | None]
SCALES = {"gptq": "scales", "awq": "scales", "pack-quantized": "weight_scale", "int-quantized": "weight_scale"}
CODES = {"gptq": "qweight", "awq": "qweight", "pack-quantized": "weight_packed", "int-quantized": "weight"}


def damaged(kind: str, part: str, damage: Damage, why: str, **changes: Any) -> None:
    config, tensors = stored(kind, **changes)
    value = damage(tensors.pop(part))
    if value is not None:
        tensors[part] = value
    # The codes may be what is missing: the reader is told that they are there.
    named = {f"{STEM}.{name}": value for name, value in tensors.items()}
    reader = reader_of(config, *named, f"{STEM}.{part}")
    with pytest.raises(CheckpointError, match=rf"'{re.escape(STEM)}\.{part}'.*{why}"):
        reader.read(NAME, named.get, (16, 64))


def with_first(number: float) -> Damage:
    def damage(values: torch.Tensor) -> torch.Tensor:
        values = values.float()
        values.view(-1)[0] = number
        return values

    return damage


@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), 70000.0])
def test_scales_that_are_not_finite(kind: str, number: float) -> None:
    damaged(kind, SCALES[kind], with_first(number), "1 of 32 values that are NaN, infinite or too large")


@pytest.mark.parametrize("kind", SCALES)
def test_what_is_missing_or_misshapen(kind: str) -> None:
    required = [CODES[kind], SCALES[kind]]
    required += ["qzeros"] if kind in IN_WORDS else []
    required += ["weight_shape"] if kind == "pack-quantized" else []
    for part in required:
        damaged(kind, part, lambda _: None, "is missing")
        damaged(kind, part, lambda value: value[:-1], r"asks for \[")
        damaged(kind, part, lambda value: value.double(), r"of float64; the config asks for .* of")


def test_zero_points_of_an_asymmetric_weight_are_missing() -> None:
    for kind in COMPRESSED:
        damaged(kind, "weight_zero_point", lambda _: None, "is missing", symmetric=False)
        damaged(kind, "weight_zero_point", lambda value: value[1:], "asks for", symmetric=False)


def test_zero_points_of_a_symmetric_weight() -> None:
    for kind in COMPRESSED:
        config, tensors = stored(kind, symmetric=False)
        config["config_groups"]["group_0"]["weights"]["symmetric"] = True
        with pytest.raises(CheckpointError, match=r"weight_zero_point' holds zero points that are not zero"):
            read((config, tensors), (16, 64))


def test_a_product_beyond_float16() -> None:
    config, tensors = stored("gptq", symmetric=False)
    tensors["scales"] = torch.full((2, 16), 60000.0)
    with pytest.raises(CheckpointError, match=rf"zero point of '{re.escape(NAME)}' holds"):
        read((config, tensors), (16, 64))


@pytest.mark.parametrize(("kind", "part"), [("gptq", "g_idx"), ("pack-quantized", "weight_g_idx")])
def test_groups_of_inputs_that_make_no_order(kind: str, part: str) -> None:
    def first(number: int) -> Damage:
        # Another group for an input of the first one, so that sizes differ where the number is a group.
        return lambda groups_I: torch.cat((groups_I.new_tensor([number]), groups_I.sort().values[1:]))

    damaged(kind, part, first(1), "groups of 31 to 33 inputs; all must have 32", act_order=True)
    damaged(kind, part, first(2), "0 to 2; the config asks for 0 to 1", act_order=True)
    damaged(kind, part, first(-1), "-1 to 1; the config asks for 0 to 1", act_order=True)
    damaged(kind, part, lambda groups_I: groups_I[1:], r"asks for \[64\]", act_order=True)


@pytest.mark.parametrize("kind", SCALES)
def test_a_bias_that_is_not_zero(kind: str) -> None:
    config, tensors = stored(kind)
    read((config, {**tensors, "bias": torch.zeros(16)}), (16, 64))
    with pytest.raises(CheckpointError, match=r"q_proj.bias' is a bias that is not zero"):
        read((config, {**tensors, "bias": torch.tensor([0.0] * 15 + [1e-6])}), (16, 64))


@pytest.mark.parametrize("kind", SCALES)
def test_groups_that_do_not_divide_the_inputs(kind: str) -> None:
    with pytest.raises(CheckpointError, match=rf"'{re.escape(NAME)}' has 80 inputs, which .* groups of 32 do not"):
        read(stored(kind), (16, 80))


@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize("shape", [(24, 64), (16, 96), (16, 32)])
def test_another_shape_than_the_model_has(kind: str, shape: tuple[int, int]) -> None:
    with pytest.raises(CheckpointError, match=r"asks for \["):
        read(stored(kind), shape)


def test_shapes_that_no_words_hold() -> None:
    for kind in ("gptq", "awq"):
        with pytest.raises(CheckpointError, match=r"words of 8 codes do not divide"):
            read(stored(kind), (12, 64))


def test_the_stored_shape_is_compared() -> None:
    config, tensors = stored("pack-quantized")
    # Rows of 60 codes take as many words as rows of 64 less four bits.
    tensors["weight_shape"] = torch.tensor([16, 60])
    with pytest.raises(CheckpointError, match=r"weight_shape' says \[16, 60\]; .* asks for \[16, 64\]"):
        read((config, tensors), (16, 64))


def test_values_that_four_bits_do_not_hold() -> None:
    damaged("int-quantized", "weight", lambda value: value.clamp(max=6) + 2, "from -6 to 8; of 4 bits they are from -8")
