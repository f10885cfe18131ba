"""A vision transformer with rotary positions in two dimensions, patches of several images in one sequence, each image
seeing itself only; then the projector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ostro.core.media import MediaInput
from ostro.kernels.linear import linear
from ostro.models.layers.encoder import (
    ACTIVATIONS,
    Encoder,
    Projector,
    Table,
    Work,
    attend_within,
    in_pieces,
    refuse,
)
from ostro.models.layers.linear import Linear
from ostro.models.layers.norm import RMSNorm
from ostro.models.pixtral.config import PixtralConfig

Angles = tuple[torch.Tensor, torch.Tensor]


class VisionBlock(nn.Module):
    """Pre-norm attention and a gated feed-forward layer."""

    def __init__(self, config: PixtralConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.attention_norm = RMSNorm(size, config.norm_eps)
        self.qkv = Linear(size, {"q": size, "k": size, "v": size})
        self.output = Linear(size, size)
        self.feed_forward_norm = RMSNorm(size, config.norm_eps)
        self.gate_up = Linear(size, {"gate": config.intermediate_size, "up": config.intermediate_size})
        self.down = Linear(config.intermediate_size, size)
        self._heads, self._head_dim = config.num_heads, config.head_dim
        self._activation = ACTIVATIONS[config.activation]
        self._gated = config.activation == "silu"

    def encode(self, x_NC: torch.Tensor, angles: Angles, lengths: Sequence[int]) -> Work[torch.Tensor]:
        qkv_NE = yield from in_pieces(lambda rows: self.qkv(self.attention_norm(rows)), x_NC)
        q_NHC, k_NHC, v_NHC = qkv_NE.view(-1, 3, self._heads, self._head_dim).unbind(1)
        q_NHC, k_NHC = _rotate(q_NHC, angles), _rotate(k_NHC, angles)
        seen_NC = yield from attend_within(q_NHC, k_NHC, v_NHC, lengths, self._head_dim**-0.5)
        size = x_NC.shape[1]
        both_NC = torch.cat((x_NC, seen_NC), dim=1)
        return (yield from in_pieces(lambda rows: self._rest(rows[:, :size], rows[:, size:]), both_NC))

    def _rest(self, x_NC: torch.Tensor, seen_NC: torch.Tensor) -> torch.Tensor:
        x_NC = x_NC + self.output(seen_NC)
        normed_NC = self.feed_forward_norm(x_NC)
        if self._gated:
            inner_NF = self.gate_up.gated(normed_NC)
        else:
            gate_NF, up_NF = self.gate_up(normed_NC).chunk(2, dim=1)
            inner_NF = self._activation(gate_NF) * up_NF
        out_NC: torch.Tensor = x_NC + self.down(inner_NF)
        return out_NC


class PixtralEncoder(Encoder):
    """Images as float32 [3, height, width], normalised, sides of whole patches -> [rows * columns, D]."""

    modality = "image"

    def __init__(self, config: PixtralConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.placeholder = config.placeholder
        size = config.hidden_size
        self.patches = Table(size, config.channels, config.patch_size, config.patch_size)
        self.norm = RMSNorm(size, config.norm_eps)
        self.layers = nn.ModuleList(VisionBlock(config) for _ in range(config.num_layers))
        self.projector_norm = RMSNorm(size, config.projector_norm_eps) if config.projector_norm else None
        self.merging = Linear(size * config.merge**2, size) if config.merge > 1 else None
        self.projector = Projector(size, hidden_size, config.projector_activation, bias=config.projector_bias)

    def check(self, media: MediaInput) -> None:
        side = self.config.patch_size * self.config.merge
        expected = (self.config.channels, media.grid[0] * side, media.grid[1] * side)
        if min(media.grid) < 1 or media.shape != expected or not media.whole:
            raise refuse(media, f"{self.config.channels} channels of {side} pixels a token")

    def cost(self, media: MediaInput) -> int:
        return media.tokens * self.config.merge**2

    def encode(self, inputs: Sequence[torch.Tensor]) -> Work[list[torch.Tensor]]:
        side = self.config.patch_size
        grids = [(pixels.shape[1] // side, pixels.shape[2] // side) for pixels in inputs]
        lengths = [rows * columns for rows, columns in grids]
        pixels_NP = torch.cat([_unfold(pixels, side) for pixels in inputs]).to(self.norm.weight.dtype)
        angles = grid_angles(self.config, grids, pixels_NP.device)
        weight_CP = self.patches.weight.flatten(1)
        x_NC = yield from in_pieces(lambda rows: self.norm(linear(rows, weight_CP)), pixels_NP)
        for layer in self.layers:
            assert isinstance(layer, VisionBlock)
            x_NC = yield from layer.encode(x_NC, angles, lengths)
        if self.projector_norm is not None:
            x_NC = self.projector_norm(x_NC)
        if self.merging is not None:
            merge = self.config.merge
            x_NC = torch.cat(
                [_merge(rows, grid, merge) for rows, grid in zip(torch.split(x_NC, lengths), grids, strict=True)]
            )
            lengths = [length // merge**2 for length in lengths]
        out_ND = yield from in_pieces(self._project, x_NC)
        return list(torch.split(out_ND, lengths))

    def _project(self, x_NC: torch.Tensor) -> torch.Tensor:
        merged_NC = x_NC if self.merging is None else self.merging(x_NC)
        out_ND: torch.Tensor = self.projector(merged_NC)
        return out_ND


def grid_angles(config: PixtralConfig, grids: Sequence[tuple[int, int]], device: torch.device) -> Angles:
    """cos and sin of each patch's rotations, [N, 1, head_dim / 2]: even frequencies turn with the row, odd ones with
    the column. grids: rows and columns of each image, whose patches come one after the other."""
    dim = config.head_dim
    exponent = torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim
    frequencies = 1.0 / config.rope_theta**exponent
    angles = []
    for rows, columns in grids:
        at = torch.arange(rows * columns, dtype=torch.float32, device=device)
        row, column = torch.div(at, columns, rounding_mode="floor")[:, None], (at % columns)[:, None]
        angles.append(torch.cat((row * frequencies[0::2], column * frequencies[1::2]), dim=1))
    angles_N1C = torch.cat(angles)[:, None]
    return angles_N1C.cos(), angles_N1C.sin()


def _unfold(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """[3, height, width] -> [patches, 3 * side * side], row by row."""
    channels, height, width = pixels.shape
    grid = pixels.view(channels, height // side, side, width // side, side)
    return grid.permute(1, 3, 0, 2, 4).reshape(-1, channels * side * side)


def _merge(x_NC: torch.Tensor, grid: tuple[int, int], merge: int) -> torch.Tensor:
    """Patches of one image -> one row for each square of merge * merge patches, channel by channel."""
    grid_CRW = x_NC.view(*grid, -1).permute(2, 0, 1)
    return F.unfold(grid_CRW[None], kernel_size=merge, stride=merge)[0].T


def _rotate(x_NHC: torch.Tensor, angles: Angles) -> torch.Tensor:
    """Rotate-half in float32, then the type that it came in."""
    cos, sin = angles
    first, second = x_NHC.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x_NHC.dtype)
