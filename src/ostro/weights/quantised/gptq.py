"""GPTQ folders, as AutoGPTQ and GPTQModel write them.

A weight [O, I] is (AutoGPTQ, nn_modules/qlinear/qlinear_cuda.py, `pack`)

    qweight  [I / n, O] int32  n = 32 / bits codes a word, of following inputs
    qzeros   [G, O / n] int32  zero points, n following outputs a word
    scales   [G, O]
    g_idx    [I] int32         the group of each input; sorted unless columns were quantised by activation (desc_act)

The checkpoint format "gptq" stores zero points less one, "gptq_v2" stores them as they are. What "gptq" loses where a
zero point is 0 is kept by subtracting whole words, borrows and all: GPTQModel (utils/model.py,
`convert_gptq_v1_to_v2_format_module`) adds 0x11111111 to each, and so does this reader.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from ostro.core.errors import CheckpointError, ConfigError
from ostro.kernels.packed_linear.layout import Codes, centre
from ostro.weights.quantised import matrix
from ostro.weights.quantised.words import per_word, row_chunks, unpack_words

METHOD = "gptq"
FORMATS = ("gptq", "gptq_v2")
# One in each code of a word.
ONES = {4: 0x11111111, 8: 0x01010101}


class GPTQReader:
    """Reads what a GPTQ `quantization_config` describes. Raises ConfigError for formats that are not supported."""

    def __init__(self, config: Mapping[str, Any], tensors: Collection[str]) -> None:
        self._tensors = tensors
        self._scheme = matrix.scheme_of(config.get("bits"), config.get("group_size", -1))
        self._less_one = _checkpoint_format(config) == "gptq"
        self._symmetric = config.get("sym") is True
        self._act_order = bool(config.get("desc_act"))
        _refuse_extras(config)

    def parts(self, name: str) -> tuple[str, ...]:
        """The tensors of one weight; none where it is dense."""
        stem = name.removesuffix(".weight")
        if f"{stem}.qweight" not in self._tensors:
            return ()
        return tuple(f"{stem}.{part}" for part in ("qweight", "qzeros", "scales", "g_idx", "bias"))

    def read(self, name: str, read_tensor: matrix.ReadTensor, shape: tuple[int, int]) -> Codes:
        """One weight [O, I]. Raises CheckpointError where its tensors do not make one."""
        outputs, inputs = shape
        qweight, qzeros, scales, g_idx, bias = self.parts(name)
        groups = matrix.count_groups(name, self._scheme, inputs)
        in_word = per_word(self._scheme.bits)
        if outputs % in_word or inputs % in_word:
            raise CheckpointError(
                f"'{name}' is {list(shape)}, which words of {in_word} codes do not divide; GPTQ cannot store it. The "
                "config is of another checkpoint."
            )
        matrix.check_bias(read_tensor, bias)
        scales_GO = matrix.take_scales(read_tensor, scales, (groups, outputs))
        zero_words_GW = matrix.take(read_tensor, qzeros, (torch.int32,), (groups, outputs // in_word))
        zeros_GO = self._zeros(qzeros, zero_words_GW, outputs)
        order_I = matrix.take_order(read_tensor, g_idx, inputs, groups, act_order=self._act_order)
        words_WO = matrix.take(read_tensor, qweight, (torch.int32,), (inputs // in_word, outputs))
        codes_OI = torch.empty(shape, dtype=torch.uint8)
        for rows in row_chunks(outputs, inputs):
            codes_RI = unpack_words(words_WO[:, rows].T, self._scheme.bits, inputs)
            codes_OI[rows] = codes_RI if order_I is None else codes_RI[:, order_I]
        return matrix.assemble(name, self._scheme, codes_OI, scales_GO.T, zeros_GO.T, order_I)

    def _zeros(self, name: str, words_GW: torch.Tensor, outputs: int) -> torch.Tensor:
        bits = self._scheme.bits
        zeros_GO = unpack_words(words_GW, bits, outputs)
        # Some makers say "gptq" and store zero points as they are; where the config says symmetric, that shows.
        if self._less_one and not (self._symmetric and bool((zeros_GO == centre(bits)).all())):
            zeros_GO = unpack_words(words_GW + ONES[bits], bits, outputs)
        if self._symmetric and bool((zeros_GO != centre(bits)).any()):
            raise CheckpointError(
                f"'{name}' holds zero points from {int(zeros_GO.min())} to {int(zeros_GO.max())}, but the config says "
                f"that the weights are symmetric ('sym'), so {centre(bits)} is expected. Probably its "
                "'checkpoint_format' is not the one that the checkpoint was stored in: 'gptq' stores zero points less "
                "one, 'gptq_v2' as they are. Set it to the other, or take the config that belongs to the weights."
            )
        return zeros_GO


def _checkpoint_format(config: Mapping[str, Any]) -> str:
    found = config.get("checkpoint_format") or config.get("format") or "gptq"
    if config.get("is_marlin_format"):
        found = "marlin"
    if found not in FORMATS:
        raise ConfigError(
            f"The checkpoint is in GPTQ's format {found!r}; {' and '.join(map(repr, FORMATS))} are supported. Take one "
            "that is stored in them.",
            param="checkpoint_format",
        )
    return str(found)


def _refuse_extras(config: Mapping[str, Any]) -> None:
    """Raises ConfigError for what would change the numbers and is not done here."""
    if config.get("pack_dtype", "int32") != "int32":
        raise ConfigError(
            f"The checkpoint's codes are packed in {config['pack_dtype']!r}; only int32 is supported.",
            param="pack_dtype",
        )
    if config.get("rotation"):
        raise ConfigError(
            f"The checkpoint's weights are rotated ({config['rotation']!r}), which is not supported.", param="rotation"
        )
    # Rules that begin with "-:" leave layers dense, which shows in the tensors; others quantise them otherwise.
    rules = config.get("dynamic") or {}
    if not isinstance(rules, dict) or any(not rule.startswith("-:") for rule in rules):
        raise ConfigError(
            f"The checkpoint quantises some layers otherwise than the rest (dynamic: {rules!r}), which is not "
            "supported; take one whose layers have the same bits and group size.",
            param="dynamic",
        )
