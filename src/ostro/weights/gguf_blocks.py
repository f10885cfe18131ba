"""Blocks of GGUF's quantised types, turned into plain codes.

What a block means is fixed by ggml (ggml-common.h, and ggml-quants.c, `dequantize_row_*`). d and m are float16:

    Q4_0  d (q - 8)         4 bits, symmetric                    exact
    Q4_1  d q + m           4 bits, shifted                      exact
    Q5_0  d (q - 16)        8 bits, symmetric                    exact
    Q5_1  d q + m           8 bits, shifted                      exact
    Q8_0  d q               8 bits, symmetric                    exact
    Q4_K  d s q - m t       4 bits, shifted                      d s and -m t are rounded to float16
    Q5_K  d s q - m t       8 bits, shifted                      d s and -m t are rounded to float16
    Q6_K  d s (q - 32)      8 bits, symmetric, quantised again

s and t are whole numbers that 32 weights share, in Q6_K 16. How far a weight may move:

    Q4_K, Q5_K  2^-11 (|d s q| + |m t|)
    Q6_K        half a step of the new scale, which is 1/127 of the largest magnitude among 32 weights, rounded to
                float16: at most 1/254 (1 + 2^-10) of that magnitude, plus 2^-25

Letters of shapes: R rows, B blocks a row, Y bytes of a block, G groups of 32 a row, I inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ostro.core.errors import CheckpointError
from ostro.core.gguf import TYPES
from ostro.kernels.packed_linear.layout import Codes, Scheme, centre

GROUP = 32
DENSE = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Rows are decoded a few at a time, so that what lies in between stays in the cache and small beside the matrix.
CHUNK = 1 << 20

# Codes [R, I] uint8, scales and shifts [R, G] float16.
_Decoded = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


@dataclass(frozen=True)
class _Format:
    scheme: Scheme
    decode: Callable[[torch.Tensor], _Decoded]
    """Blocks [R, B, Y] uint8 to codes, scales and shifts."""


def decode(what: str, kind: str, shape: tuple[int, ...], rows: Callable[[int, int], torch.Tensor]) -> Codes:
    """The matrix of type `kind` and shape [O, I], its groups 32 wide.

    what: names the tensor in errors. rows(first, count) gives the bytes of some rows, [count, bytes a row] uint8.
    Raises CheckpointError for a type that is not supported, and for scales that are not finite.
    """
    form = _find(what, kind)
    if len(shape) != 2:
        raise CheckpointError(f"{what} has the shape {list(shape)}; only matrices are read from {kind}.")
    outputs, inputs = shape
    codes_OI = torch.empty(outputs, inputs, dtype=torch.uint8)
    scales_OG = torch.empty(outputs, inputs // GROUP, dtype=torch.float16)
    shifts_OG = torch.empty_like(scales_OG) if form.scheme.shifted else None
    weights, width = _block(kind)
    step = max(1, CHUNK // inputs)
    for first in range(0, outputs, step):
        count = min(step, outputs - first)
        part = slice(first, first + count)
        codes_OI[part], scales_RG, shifts_RG = form.decode(rows(first, count).view(count, inputs // weights, width))
        scales_OG[part] = _finite(what, scales_RG)
        if shifts_OG is not None and shifts_RG is not None:
            shifts_OG[part] = _finite(what, shifts_RG)
    return Codes(form.scheme, codes_OI, scales_OG, shifts_OG)


def _find(what: str, kind: str) -> _Format:
    if kind not in _FORMATS:
        raise CheckpointError(
            f"{what} is of the type {kind}, which is not supported; {', '.join((*DENSE, *_FORMATS))} are. Take a file "
            "that is quantised to one of them, such as Q4_0 or Q4_K_M."
        )
    return _FORMATS[kind]


def _block(kind: str) -> tuple[int, int]:
    return next((weights, width) for name, weights, width in TYPES.values() if name == kind)


def _finite(what: str, values: torch.Tensor) -> torch.Tensor:
    if not torch.isfinite(values).all():
        raise not_finite(what)
    return values


def not_finite(what: str) -> CheckpointError:
    return CheckpointError(
        f"{what} has a scale or minimum that is not a finite number in float16; the file is damaged, or was made "
        "from weights that are. Download it again, or take another one."
    )


def _half(blocks_RBY: torch.Tensor, at: int) -> torch.Tensor:
    """The float16 [R, B] at byte `at` of each block."""
    return blocks_RBY[..., at : at + 2].contiguous().view(torch.float16)[..., 0]


def _nibbles(packed: torch.Tensor) -> torch.Tensor:
    """[..., n] to [..., 2 n]: all low halves, then all high halves."""
    return torch.cat((packed & 15, packed >> 4), dim=-1)


def _q4_0(blocks_RBY: torch.Tensor) -> _Decoded:
    return _nibbles(blocks_RBY[..., 2:]).flatten(1), _half(blocks_RBY, 0), None


def _q4_1(blocks_RBY: torch.Tensor) -> _Decoded:
    return _nibbles(blocks_RBY[..., 4:]).flatten(1), _half(blocks_RBY, 0), _half(blocks_RBY, 2)


def _fifth_bits(packed_RB4: torch.Tensor) -> torch.Tensor:
    """The bit of each weight, in the place of its value 16: [R, B, 4] bytes to [R, B, 32]."""
    places = torch.arange(8, dtype=torch.uint8)
    return ((packed_RB4[..., None] >> places) & 1).flatten(-2) << 4


def _q5_0(blocks_RBY: torch.Tensor) -> _Decoded:
    codes_RBS = _nibbles(blocks_RBY[..., 6:]) | _fifth_bits(blocks_RBY[..., 2:6])
    return (codes_RBS + (centre(8) - 16)).flatten(1), _half(blocks_RBY, 0), None


def _q5_1(blocks_RBY: torch.Tensor) -> _Decoded:
    codes_RBS = _nibbles(blocks_RBY[..., 8:]) | _fifth_bits(blocks_RBY[..., 4:8])
    return codes_RBS.flatten(1), _half(blocks_RBY, 0), _half(blocks_RBY, 2)


def _q8_0(blocks_RBY: torch.Tensor) -> _Decoded:
    # In two's complement, turning the highest bit over adds 128.
    return (blocks_RBY[..., 2:] ^ 128).flatten(1), _half(blocks_RBY, 0), None


def _k_groups(blocks_RBY: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and shifts [R, G] of Q4_K and Q5_K, whose 8 groups a block have 6-bit s and t in 12 bytes.

    Bytes 0 to 3 hold s, 4 to 7 t of the first four groups. Of the others, bytes 8 to 11 hold the low four bits (s
    in the low half), and the two highest bits of bytes 0 to 7 the rest.
    """
    first, second, low = blocks_RBY[..., 4:8], blocks_RBY[..., 8:12], blocks_RBY[..., 12:16]
    s_RB8 = torch.cat((first & 63, (low & 15) | ((first >> 6) << 4)), dim=-1)
    t_RB8 = torch.cat((second & 63, (low >> 4) | ((second >> 6) << 4)), dim=-1)
    scales_RB8 = _half(blocks_RBY, 0).float()[..., None] * s_RB8
    shifts_RB8 = -_half(blocks_RBY, 2).float()[..., None] * t_RB8
    return scales_RB8.half().flatten(1), shifts_RB8.half().flatten(1)


def _k_nibbles(packed_RB128: torch.Tensor) -> torch.Tensor:
    """[R, B, 8, 32]: each 32 bytes hold a group in their low and the next one in their high halves."""
    rows, blocks = packed_RB128.shape[:2]
    return _nibbles(packed_RB128.view(rows, blocks, 4, GROUP)).view(rows, blocks, 8, GROUP)


def _q4_k(blocks_RBY: torch.Tensor) -> _Decoded:
    return _k_nibbles(blocks_RBY[..., 16:]).flatten(1), *_k_groups(blocks_RBY)


def _q5_k(blocks_RBY: torch.Tensor) -> _Decoded:
    # Byte i of 32 holds the fifth bits of the i-th weight of all eight groups.
    places_8 = torch.arange(8, dtype=torch.uint8)[:, None]
    fifth_RB8S = ((blocks_RBY[..., None, 16:48] >> places_8) & 1) << 4
    return (_k_nibbles(blocks_RBY[..., 48:]) | fifth_RB8S).flatten(1), *_k_groups(blocks_RBY)


def _q6_k(blocks_RBY: torch.Tensor) -> _Decoded:
    rows, blocks = blocks_RBY.shape[:2]
    low_RB2S = _nibbles(blocks_RBY[..., :128].view(rows, blocks, 2, 64))
    pairs_RB2S = blocks_RBY[..., 128:192].view(rows, blocks, 2, 1, 32)
    places_4 = torch.arange(0, 8, 2, dtype=torch.uint8)[:, None]
    high_RB2S = ((pairs_RB2S >> places_4) & 3).flatten(-2)
    q = (low_RB2S | (high_RB2S << 4)).view(rows, blocks, 16, 16)
    s_RB16 = blocks_RBY[..., 192:208].view(torch.int8)
    steps_RB16 = _half(blocks_RBY, 208).float()[..., None] * s_RB16
    values_RBSS = (q.float() - 32) * steps_RB16[..., None]
    return _requantise(values_RBSS.view(rows, -1, GROUP))


def _requantise(values_RGS: torch.Tensor) -> _Decoded:
    """The nearest 8-bit codes: no value is further away than half a step."""
    peaks_RG = values_RGS.abs().amax(dim=-1)
    scales_RG = (peaks_RG / 127).half()
    # Where float16 is coarse, rounding down can leave the largest value out of reach; its next number cannot.
    short_RG = peaks_RG > 127.5 * scales_RG.float()
    scales_RG = (scales_RG.view(torch.int16) + short_RG).view(torch.float16)
    steps_RG1 = scales_RG.float().where(scales_RG != 0, 1.0)[..., None]
    # Out of reach by less than half a step is rounded to the last code; beyond it there is none.
    codes_RGS = (values_RGS / steps_RG1).round_().add_(centre(8)).clamp_(0, 255).to(torch.uint8)
    return codes_RGS.flatten(1), scales_RG, None


_FORMATS = {
    "Q4_0": _Format(Scheme(4, GROUP), _q4_0),
    "Q4_1": _Format(Scheme(4, GROUP, shifted=True), _q4_1),
    "Q5_0": _Format(Scheme(8, GROUP), _q5_0),
    "Q5_1": _Format(Scheme(8, GROUP, shifted=True), _q5_1),
    "Q8_0": _Format(Scheme(8, GROUP), _q8_0),
    "Q4_K": _Format(Scheme(4, GROUP, shifted=True), _q4_k),
    "Q5_K": _Format(Scheme(8, GROUP, shifted=True), _q5_k),
    "Q6_K": _Format(Scheme(8, GROUP), _q6_k),
}


def scheme_of(kind: str) -> Scheme | None:
    """How tensors of a ggml type are held once they are read; None for types that are not read as codes."""
    found = _FORMATS.get(kind)
    return None if found is None else found.scheme
