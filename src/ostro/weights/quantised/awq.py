"""AWQ folders in the layout "gemm", as AutoAWQ writes them.

A weight [O, I] is (AutoAWQ, modules/linear/gemm.py, `WQLinear_GEMM.from_linear`)

    qweight  [I, O / 8] int32  8 outputs a word, in the order 0, 2, 4, 6, 1, 3, 5, 7 from the lowest bits
    qzeros   [G, O / 8] int32  zero points, in the same order
    scales   [G, O]
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from ostro.core.errors import CheckpointError, ConfigError
from ostro.kernels.packed_linear.layout import Codes
from ostro.weights.quantised import matrix
from ostro.weights.quantised.words import per_word, row_chunks, unpack_words

METHOD = "awq"
VERSION = "gemm"
BITS = 4
# Output j of a word is its code PLACES[j].
PLACES = [0, 4, 1, 5, 2, 6, 3, 7]


class AWQReader:
    """Reads what an AWQ `quantization_config` describes. Raises ConfigError for layouts that are not supported."""

    def __init__(self, config: Mapping[str, Any], tensors: Collection[str]) -> None:
        version = config.get("version") or config.get("checkpoint_format") or config.get("format") or VERSION
        if str(version).lower() != VERSION:
            raise ConfigError(
                f"The checkpoint is in AWQ's layout {version!r}; only {VERSION!r} is supported. Take one that is "
                "stored in it.",
                param="version",
            )
        bits = config.get("bits", config.get("w_bit"))
        if bits != BITS:
            raise ConfigError(f"AWQ weights have {BITS} bits; the config says {bits!r}.", param="bits")
        self._tensors = tensors
        self._scheme = matrix.scheme_of(bits, config.get("group_size", config.get("q_group_size", -1)))

    def parts(self, name: str) -> tuple[str, ...]:
        """The tensors of one weight; none where it is dense."""
        stem = name.removesuffix(".weight")
        if f"{stem}.qweight" not in self._tensors:
            return ()
        return tuple(f"{stem}.{part}" for part in ("qweight", "qzeros", "scales", "bias"))

    def read(self, name: str, read_tensor: matrix.ReadTensor, shape: tuple[int, int]) -> Codes:
        """One weight [O, I]. Raises CheckpointError where its tensors do not make one."""
        outputs, inputs = shape
        qweight, qzeros, scales, bias = self.parts(name)
        groups = matrix.count_groups(name, self._scheme, inputs)
        in_word = per_word(BITS)
        if outputs % in_word:
            raise CheckpointError(
                f"'{name}' has {outputs} outputs, which words of {in_word} codes do not divide; AWQ cannot store it. "
                "The config is of another checkpoint."
            )
        matrix.check_bias(read_tensor, bias)
        scales_GO = matrix.take_scales(read_tensor, scales, (groups, outputs))
        zeros_GO = _unpack(matrix.take(read_tensor, qzeros, (torch.int32,), (groups, outputs // in_word)))
        words_IW = matrix.take(read_tensor, qweight, (torch.int32,), (inputs, outputs // in_word))
        codes_OI = torch.empty(shape, dtype=torch.uint8)
        for rows in row_chunks(outputs, inputs, multiple=in_word):
            codes_OI[rows] = _unpack(words_IW[:, rows.start // in_word : rows.stop // in_word]).T
        return matrix.assemble(name, self._scheme, codes_OI, scales_GO.T, zeros_GO.T, None)


def _unpack(words_RW: torch.Tensor) -> torch.Tensor:
    """[R, O / 8] int32 -> [R, O] uint8, the outputs in their order."""
    rows, count = words_RW.shape
    stored = unpack_words(words_RW, BITS, count * per_word(BITS))
    return stored.view(rows, count, per_word(BITS))[..., PLACES].flatten(1)
