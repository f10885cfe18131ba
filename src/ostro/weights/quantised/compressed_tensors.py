"""Folders of compressed-tensors (llm-compressor, vLLM) with weights of 4 or 8 bits.

A weight [O, I] is stored in one of two formats. "pack-quantized" (compressors/pack_quantized), n = 32 / bits codes a
word, the last word of a row filled up:

    weight_packed      [O, ⌈I / n⌉] int32  value + centre, n following inputs a word
    weight_zero_point  [⌈O / n⌉, G] int32  the same of zero points, n following outputs a word; only asymmetric
    weight_shape       [2]                 O and I

and "int-quantized" (compressors/naive_quantized), both without the centre added:

    weight             [O, I] int8
    weight_zero_point  [O, G] int8         only asymmetric

each with weight_scale [O, G], where G is 1 for the strategy "channel", and weight_g_idx [I], the group of each input,
where columns were grouped by activation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from ostro.core.errors import CheckpointError
from ostro.kernels.packed_linear.layout import Codes, centre
from ostro.weights.quantised import matrix
from ostro.weights.quantised.compressed_groups import Group, read_groups
from ostro.weights.quantised.words import row_chunks, unpack_words, words

METHOD = "compressed-tensors"
# What may lie beside a weight: scales of activations have no use here.
BESIDE = ("weight_scale", "weight_zero_point", "weight_g_idx", "bias", "input_scale", "input_zero_point")


class CompressedTensorsReader:
    """Reads what a compressed-tensors config describes. Raises ConfigError for what is not supported."""

    def __init__(self, config: Mapping[str, Any], tensors: Collection[str]) -> None:
        self._tensors = tensors
        self._groups = read_groups(config)
        self._found: dict[str, Group | None] = {}

    def parts(self, name: str) -> tuple[str, ...]:
        """The tensors of one weight; none where it is dense or FP8. Raises CheckpointError where the config says that
        it is dense, but it is not."""
        stem = name.removesuffix(".weight")
        group = self._group(stem)
        if group is None:
            self._check_dense(stem)
            return ()
        # An int8 weight has the name of a dense one: its scales tell them apart.
        if f"{stem}.{'weight_packed' if group.packed else 'weight_scale'}" not in self._tensors:
            return ()
        own = ("weight_packed", "weight_shape") if group.packed else ("weight",)
        return tuple(f"{stem}.{part}" for part in (*own, *BESIDE))

    def read(self, name: str, read_tensor: matrix.ReadTensor, shape: tuple[int, int]) -> Codes:
        """One weight [O, I]. Raises CheckpointError where its tensors do not make one."""
        stem = name.removesuffix(".weight")
        group = self._group(stem)
        assert group is not None
        groups = matrix.count_groups(name, group.scheme, shape[1])
        matrix.check_bias(read_tensor, f"{stem}.bias")
        scales_OG = matrix.take_scales(read_tensor, f"{stem}.weight_scale", (shape[0], groups))
        zeros_OG = _zeros(f"{stem}.weight_zero_point", read_tensor, group, (shape[0], groups))
        g_idx = f"{stem}.weight_g_idx"
        order_I = matrix.take_order(read_tensor, g_idx, shape[1], groups, act_order=group.act_order)
        read_codes = _packed_codes if group.packed else _plain_codes
        codes_OI = read_codes(stem, read_tensor, group.scheme.bits, shape, order_I)
        return matrix.assemble(name, group.scheme, codes_OI, scales_OG, zeros_OG, order_I)

    def _group(self, stem: str) -> Group | None:
        """The group of a layer; asked for several times a weight, looked for once."""
        if stem not in self._found:
            self._found[stem] = self._groups.find(stem)
        return self._found[stem]

    def _check_dense(self, stem: str) -> None:
        packed = f"{stem}.weight_packed"
        if packed in self._tensors:
            raise CheckpointError(
                f"'{packed}' is stored, but the config quantises no such layer: it is in 'ignore', or none of the "
                "targets of 'config_groups' fits it. The config is of another checkpoint."
            )


def _zeros(name: str, read_tensor: matrix.ReadTensor, group: Group, shape: tuple[int, int]) -> torch.Tensor | None:
    """Zero points [O, G] as codes; None where there are none and need not be."""
    bits = group.scheme.bits
    stored = read_tensor(name)
    if stored is None and group.symmetric:
        return None
    if stored is not None and stored.dtype == torch.int32 and group.packed:
        words_WG = matrix.take(read_tensor, name, (torch.int32,), (words(shape[0], bits), shape[1]))
        zeros_OG = unpack_words(words_WG.T, bits, shape[0]).T
    else:
        zeros_OG = _add_centre(name, matrix.take(read_tensor, name, (torch.int8,), shape), bits)
    if group.symmetric and bool((zeros_OG != centre(bits)).any()):
        raise CheckpointError(
            f"'{name}' holds zero points that are not zero, but the config says that the weights are symmetric. The "
            "config is of another checkpoint."
        )
    return zeros_OG


def _packed_codes(
    stem: str, read_tensor: matrix.ReadTensor, bits: int, shape: tuple[int, int], order_I: torch.Tensor | None
) -> torch.Tensor:
    outputs, inputs = shape
    stored_shape = matrix.take(read_tensor, f"{stem}.weight_shape", matrix.INTEGERS, (2,)).tolist()
    if stored_shape != [outputs, inputs]:
        raise CheckpointError(f"'{stem}.weight_shape' says {stored_shape}; the model's config asks for {list(shape)}.")
    words_OW = matrix.take(read_tensor, f"{stem}.weight_packed", (torch.int32,), (outputs, words(inputs, bits)))
    codes_OI = torch.empty(shape, dtype=torch.uint8)
    for rows in row_chunks(outputs, inputs):
        codes_RI = unpack_words(words_OW[rows], bits, inputs)
        codes_OI[rows] = codes_RI if order_I is None else codes_RI[:, order_I]
    return codes_OI


def _plain_codes(
    stem: str, read_tensor: matrix.ReadTensor, bits: int, shape: tuple[int, int], order_I: torch.Tensor | None
) -> torch.Tensor:
    values_OI = matrix.take(read_tensor, f"{stem}.weight", (torch.int8,), shape)
    codes_OI = torch.empty(shape, dtype=torch.uint8)
    for rows in row_chunks(*shape):
        codes_RI = _add_centre(f"{stem}.weight", values_OI[rows], bits)
        codes_OI[rows] = codes_RI if order_I is None else codes_RI[:, order_I]
    return codes_OI


def _add_centre(name: str, values: torch.Tensor, bits: int) -> torch.Tensor:
    """int8 values as codes. Raises CheckpointError for those that have none."""
    low, high = -centre(bits), centre(bits) - 1
    if values.numel() and (int(values.min()) < low or int(values.max()) > high):
        raise CheckpointError(
            f"'{name}' holds values from {int(values.min())} to {int(values.max())}; of {bits} bits they are from "
            f"{low} to {high}. The config is of another checkpoint, or the checkpoint is broken."
        )
    # In the arithmetic of bytes, which wraps around, -8 + 8 and -128 + 128 are 0.
    return values.view(torch.uint8) + centre(bits)
