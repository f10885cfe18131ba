"""Quantised layers as other makers store them, packed code by code from the definitions of their layouts; and read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ostro.kernels.packed_linear.layout import Codes
from ostro.weights import quantised

Tensors = dict[str, torch.Tensor]
Stored = tuple[dict[str, Any], Tensors]
# Output AWQ_ORDER[i] of eight is in the bits 4 i to 4 i + 3 of a word.
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


@dataclass(frozen=True)
class Layer:
    """What is meant: weight [o, i] is scale * (code - zero), with the scale and the zero of the group of input i."""

    bits: int
    size: int
    """Inputs of a group; -1 for a whole row."""
    codes_OI: torch.Tensor
    scales_OG: torch.Tensor
    zeros_OG: torch.Tensor
    groups_I: torch.Tensor

    @property
    def symmetric(self) -> bool:
        return bool((self.zeros_OG == 2 ** (self.bits - 1)).all())

    @property
    def act_order(self) -> bool:
        return bool((self.groups_I[1:] < self.groups_I[:-1]).any())

    def values(self) -> torch.Tensor:
        """[O, I] float32; products of a float16 and a small whole number are exact in it."""
        return self.scales_OG.float()[:, self.groups_I] * (self.codes_OI - self.zeros_OG[:, self.groups_I])


def random_layer(
    seed: int, bits: int, size: int, shape: tuple[int, int], *, symmetric: bool, act_order: bool = False
) -> Layer:
    draw = torch.Generator().manual_seed(seed)
    outputs, inputs = shape
    groups = 1 if size == -1 else inputs // size
    zeros = torch.full((outputs, groups), 2 ** (bits - 1))
    if not symmetric:
        zeros = torch.randint(0, 2**bits, (outputs, groups), generator=draw)
        zeros[0, 0] = 0
    order = torch.randperm(inputs, generator=draw) if act_order else torch.arange(inputs)
    return Layer(
        bits,
        size,
        torch.randint(0, 2**bits, shape, generator=draw),
        # Exact in bfloat16 as well.
        (torch.rand(outputs, groups, generator=draw) * 0.1 + 0.001).bfloat16().half(),
        zeros,
        order // (inputs if size == -1 else size),
    )


def word(codes: list[int], bits: int) -> int:
    """Codes side by side, the first in the lowest bits."""
    return sum(code << bits * place for place, code in enumerate(codes))


def int32(words: list[list[int]]) -> torch.Tensor:
    return torch.tensor([[w - 2**32 if w >= 2**31 else w for w in row] for row in words], dtype=torch.int32)


def pack_gptq(layer: Layer, checkpoint_format: str = "gptq") -> Stored:
    n = 32 // layer.bits
    codes, zeros = layer.codes_OI.tolist(), layer.zeros_OG.T.tolist()
    outputs, inputs = layer.codes_OI.shape
    qweight = [
        [word([codes[o][first + k] for k in range(n)], layer.bits) for o in range(outputs)]
        for first in range(0, inputs, n)
    ]
    qzeros = [[word(row[first : first + n], layer.bits) for first in range(0, outputs, n)] for row in zeros]
    if checkpoint_format == "gptq":
        ones = word([1] * n, layer.bits)
        qzeros = [[(w - ones) % 2**32 for w in row] for row in qzeros]
    config = {
        "quant_method": "gptq",
        "bits": layer.bits,
        "group_size": layer.size,
        "desc_act": layer.act_order,
        "sym": layer.symmetric,
        "checkpoint_format": checkpoint_format,
    }
    return config, {
        "qweight": int32(qweight),
        "qzeros": int32(qzeros),
        "scales": layer.scales_OG.T.contiguous(),
        "g_idx": layer.groups_I.to(torch.int32),
        "bias": torch.zeros(outputs, dtype=torch.float16),
    }


def pack_gptq_v2(layer: Layer) -> Stored:
    return pack_gptq(layer, "gptq_v2")


def pack_awq(layer: Layer) -> Stored:
    def interleave(rows: list[list[int]]) -> torch.Tensor:
        return int32([[word([row[at + k] for k in AWQ_ORDER], 4) for at in range(0, len(row), 8)] for row in rows])

    config = {"quant_method": "awq", "bits": 4, "group_size": layer.size, "version": "gemm", "zero_point": True}
    return config, {
        "qweight": interleave(layer.codes_OI.T.tolist()),
        "qzeros": interleave(layer.zeros_OG.T.tolist()),
        "scales": layer.scales_OG.T.contiguous(),
    }


def _compressed_config(layer: Layer, form: str) -> dict[str, Any]:
    weights = {
        "num_bits": layer.bits,
        "type": "int",
        "symmetric": layer.symmetric,
        "strategy": "channel" if layer.size == -1 else "group",
        "group_size": None if layer.size == -1 else layer.size,
        "actorder": "group" if layer.act_order else None,
    }
    inputs = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


def _with_group_index(layer: Layer, tensors: Tensors) -> Tensors:
    return {**tensors, "weight_g_idx": layer.groups_I.to(torch.int32)} if layer.act_order else tensors


def pack_compressed(layer: Layer) -> Stored:
    n = 32 // layer.bits

    def along(rows: list[list[int]]) -> torch.Tensor:
        return int32([[word(row[first : first + n], layer.bits) for first in range(0, len(row), n)] for row in rows])

    tensors = {
        "weight_packed": along(layer.codes_OI.tolist()),
        "weight_scale": layer.scales_OG.bfloat16(),
        "weight_shape": torch.tensor(layer.codes_OI.shape),
    }
    if not layer.symmetric:
        tensors["weight_zero_point"] = along(layer.zeros_OG.T.tolist()).T.contiguous()
    return _compressed_config(layer, "pack-quantized"), _with_group_index(layer, tensors)


def pack_compressed_plain(layer: Layer) -> Stored:
    centre = 2 ** (layer.bits - 1)
    tensors = {"weight": (layer.codes_OI - centre).to(torch.int8), "weight_scale": layer.scales_OG.bfloat16()}
    if not layer.symmetric:
        tensors["weight_zero_point"] = (layer.zeros_OG - centre).to(torch.int8)
    return _compressed_config(layer, "int-quantized"), _with_group_index(layer, tensors)


PACKERS: dict[str, Callable[[Layer], Stored]] = {
    "gptq": pack_gptq,
    "gptq_v2": pack_gptq_v2,
    "awq": pack_awq,
    "pack-quantized": pack_compressed,
    "int-quantized": pack_compressed_plain,
}

NAME = "model.layers.0.self_attn.q_proj.weight"
STEM = NAME.removesuffix(".weight")
IN_WORDS = ["gptq", "gptq_v2", "awq"]
COMPRESSED = ["pack-quantized", "int-quantized"]


def read(stored: Stored, shape: tuple[int, int], name: str = NAME) -> Codes:
    config, tensors = stored
    named = {f"{name.removesuffix('.weight')}.{part}": value for part, value in tensors.items()}
    reader = quantised.find(config, named.keys())
    assert reader is not None
    assert named.keys() <= set(reader.parts(name))
    codes = reader.read(name, named.get, shape)
    assert isinstance(codes, Codes)
    return codes


def reader_of(config: dict[str, Any], *tensors: str) -> quantised.QuantisedReader:
    reader = quantised.find(config, tensors)
    assert reader is not None
    return reader


def stored(kind: str, **changes: Any) -> Stored:
    layer = random_layer(3, 4, 32, (16, 64), symmetric=changes.pop("symmetric", True), **changes)
    return PACKERS[kind](layer)
