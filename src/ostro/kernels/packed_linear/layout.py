"""How quantised weights are kept: as plain codes, and in the panels that kernels read.

A matrix [O, I] is cut along its rows into groups of `group_size` inputs. A weight is

    scale * (code - centre)         symmetric: centre is 8 for 4 bits, 128 for 8 bits
    scale * code + shift            with shifts (zero points, minima)

with one float16 scale, and one float16 shift, a group. A group size of 0 means one group a row.

Panels hold the same codes in the order that kernels read them, for every instruction set alike, so that what is on
disk is what is multiplied. 32 outputs are a panel, 32 inputs a block, 4 inputs a quad. Panel p, block b, quad j:

    4 bits  64 bytes;  byte 4 i + k holds output 32 p + i (low half) and 32 p + 16 + i (high half), i < 16
    8 bits  128 bytes; byte 4 i + k holds output 32 p + i, i < 32

both of input 32 b + 4 j + k. Scales and shifts are [panels, groups, 32]. Outputs that only fill up the last panel have
scale 0 and shift 0; inputs that fill up the last block, which only whole-row groups may have, are multiplied by 0.

An `order` says that the columns were sorted before they were cut into groups: column c belongs to input order[c].
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch

from ostro.core.errors import ConfigError
from ostro.kernels.dispatch import native

PANEL = 32
BLOCK = 32
QUAD = 4
BITS = (4, 8)
LARGE_PAGE = 1 << 21
CACHE_LINE = 64


def centre(bits: int) -> int:
    """The code of zero in a symmetric format."""
    return 1 << (bits - 1)


@dataclass(frozen=True)
class Scheme:
    """bits: 4 or 8. group_size: inputs that share a scale, 0 for a whole row. shifted: groups have shifts too."""

    bits: int
    group_size: int
    shifted: bool = False

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ConfigError(f"Weights are quantised to 4 or 8 bits, not {self.bits}.", param="bits")
        if self.group_size < 0 or self.group_size % BLOCK:
            raise ConfigError(
                f"A group of {self.group_size} weights cannot be multiplied: give a multiple of {BLOCK}, or 0 for one "
                "group a row.",
                param="group_size",
            )

    def check(self, in_features: int, what: str) -> None:
        """Raises ConfigError where rows of `in_features` cannot be cut into groups."""
        if self.group_size and in_features % self.group_size:
            fitting = [size for size in (32, 64, 128) if in_features % size == 0]
            advice = f"{' or '.join(map(str, fitting))} divide it" if fitting else "only one group a row (0) fits it"
            raise ConfigError(
                f"{what} has {in_features} inputs, which groups of {self.group_size} do not divide; {advice}.",
                param="group_size",
            )

    def groups(self, in_features: int) -> int:
        return in_features // self.group_size if self.group_size else 1

    def shapes(self, out_features: int, in_features: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of panels (uint8) and of scales and shifts (float16)."""
        panels, blocks = -(-out_features // PANEL), -(-in_features // BLOCK)
        width = PANEL * QUAD * self.bits // 8
        return (panels, blocks, BLOCK // QUAD, width), (panels, self.groups(in_features), PANEL)

    @property
    def bits_per_weight(self) -> float:
        """With what scales and shifts add; whole-row groups add next to nothing, counted as nothing."""
        extra = 16 * (2 if self.shifted else 1) / self.group_size if self.group_size else 0.0
        return self.bits + extra


@dataclass(frozen=True)
class Codes:
    """A quantised matrix in plain order: codes [O, I] uint8, scales and shifts [O, G] float16, order [I] int32."""

    scheme: Scheme
    codes_OI: torch.Tensor
    scales_OG: torch.Tensor
    shifts_OG: torch.Tensor | None = None
    order_I: torch.Tensor | None = None

    def dequantise(self) -> torch.Tensor:
        """The float32 matrix [O, I] that is meant, its columns in the order of the inputs."""
        inputs = self.codes_OI.shape[1]
        size = self.scheme.group_size or inputs
        values_OGS = self.codes_OI.view(self.codes_OI.shape[0], -1, size).float()
        if self.shifts_OG is None:
            values_OGS = (values_OGS - centre(self.scheme.bits)) * self.scales_OG.float()[..., None]
        else:
            values_OGS = values_OGS * self.scales_OG.float()[..., None] + self.shifts_OG.float()[..., None]
        sorted_OI = values_OGS.view(self.codes_OI.shape)
        if self.order_I is None:
            return sorted_OI
        return torch.empty_like(sorted_OI).index_copy_(1, self.order_I.long(), sorted_OI)


@dataclass(frozen=True)
class Packed:
    """A quantised matrix in panels, as kernels read it."""

    scheme: Scheme
    out_features: int
    in_features: int
    panels: torch.Tensor
    scales: torch.Tensor
    shifts: torch.Tensor | None = None
    order: torch.Tensor | None = None

    @property
    def bytes(self) -> int:
        """What the arrays take."""
        arrays = (self.panels, self.scales, self.shifts, self.order)
        return sum(array.numel() * array.element_size() for array in arrays if array is not None)


def empty(scheme: Scheme, out_features: int, in_features: int) -> Packed:
    """A matrix whose arrays have no values yet, on the CPU.

    They lie in one piece of memory, which the system is asked to hold in large pages: it is read a third faster so.
    """
    panels_shape, groups_shape = scheme.shapes(out_features, in_features)
    panels_size, groups_size = math.prod(panels_shape), 2 * math.prod(groups_shape)
    size = panels_size + groups_size * (2 if scheme.shifted else 1)
    # A matrix of few large pages is not worth what is lost before its first.
    place = LARGE_PAGE if size >= 4 * LARGE_PAGE else CACHE_LINE
    memory = torch.empty(size + place, dtype=torch.uint8)
    memory = memory[-memory.data_ptr() % place :][:size]
    if native is not None:
        native.advise_large_pages(memory.data_ptr(), size)
    scales, *shifts = memory[panels_size:].view(torch.float16).view(-1, *groups_shape)
    panels = memory[:panels_size].view(panels_shape)
    return Packed(scheme, out_features, in_features, panels, scales, *shifts)


def pack(matrix: Codes) -> Packed:
    """Plain order to panels."""
    packed = empty(matrix.scheme, *matrix.codes_OI.shape)
    pack_codes(matrix, packed.panels)
    _pack_groups(matrix.scales_OG, packed.scales)
    if matrix.shifts_OG is not None and packed.shifts is not None:
        _pack_groups(matrix.shifts_OG, packed.shifts)
    return dataclasses.replace(packed, order=matrix.order_I)


def pack_codes(matrix: Codes, out: torch.Tensor) -> None:
    """The codes into panels [P, B, 8, width]; beyond the matrix they are those of zero."""
    scheme, codes_OI = matrix.scheme, matrix.codes_OI.contiguous()
    fill = 0 if scheme.shifted else centre(scheme.bits)
    if native is not None and codes_OI.is_cpu:
        native.pack_codes(out.data_ptr(), codes_OI.data_ptr(), *codes_OI.shape, scheme.bits, fill)
    else:
        out.copy_(_pack_plainly(codes_OI, scheme.bits, fill).reshape(out.shape))


def _pack_plainly(codes_OI: torch.Tensor, bits: int, fill: int) -> torch.Tensor:
    outputs, inputs = codes_OI.shape
    padding = (0, -inputs % BLOCK, 0, -outputs % PANEL)
    codes = torch.nn.functional.pad(codes_OI, padding, value=fill)
    # [panel, output, block, quad, k] -> [panel, block, quad, output, k]
    panels, blocks = codes.shape[0] // PANEL, codes.shape[1] // BLOCK
    ordered = codes.view(panels, PANEL, blocks, BLOCK // QUAD, QUAD).permute(0, 2, 3, 1, 4)
    if bits == 8:
        return ordered
    low, high = ordered[..., : PANEL // 2, :], ordered[..., PANEL // 2 :, :]
    return low | (high << 4)


def _pack_groups(values_OG: torch.Tensor, out: torch.Tensor) -> None:
    outputs, groups = values_OG.shape
    panels = out.shape[0]
    padded = torch.nn.functional.pad(values_OG, (0, 0, 0, panels * PANEL - outputs))
    out.copy_(padded.view(panels, PANEL, groups).transpose(1, 2))


def all_finite(values: torch.Tensor) -> bool:
    """Whether no float16 value, of scales or shifts, is NaN or infinite."""
    if native is not None and values.is_cpu and values.is_contiguous():
        return bool(native.all_finite_half(values.data_ptr(), values.numel()))
    return bool(values.isfinite().all())


def unpack(packed: Packed) -> Codes:
    """Panels to plain order: the inverse of `pack`."""
    panels, blocks = packed.panels.shape[:2]
    stored = packed.panels.view(panels, blocks, BLOCK // QUAD, -1, QUAD)
    if packed.scheme.bits == 4:
        stored = torch.cat((stored & 15, stored >> 4), dim=-2)
    codes = stored.permute(0, 3, 1, 2, 4).reshape(panels * PANEL, blocks * BLOCK)

    def plain(values: torch.Tensor) -> torch.Tensor:
        return values.transpose(1, 2).reshape(panels * PANEL, -1)[: packed.out_features].contiguous()

    return Codes(
        packed.scheme,
        codes[: packed.out_features, : packed.in_features].contiguous(),
        plain(packed.scales),
        None if packed.shifts is None else plain(packed.shifts),
        packed.order,
    )
