"""Ostro's own encoder, one class for every sense: what differs is in its config."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ostro.core.media import MediaInput
from ostro.models.layers.encoder import ACTIVATIONS, Encoder, Projector, Table, Work, in_pieces, piece_rows, refuse
from ostro.models.layers.norm import RMSNorm
from ostro.models.ostro.stems import PLANE, ConvConfig, StemConfig
from ostro.models.pixtral.config import PixtralConfig
from ostro.models.pixtral.model import VisionBlock, grid_angles


class Convolution(nn.Module):
    """A convolution, pooled, with a scale and a shift for each channel, then the activation. Sides shrink by stride and
    pool; what is beyond the edge is zero.

    Training may put batch normalisation in the place of scale and shift (`normalise`), and its statistics into them
    afterwards (`settle`): what is served has none.
    """

    def __init__(self, before: int, config: ConvConfig, activation: str, *, plane: bool) -> None:
        super().__init__()
        self._config = config
        self._plane = plane
        self.shrink = config.stride * config.pool
        self._activation = ACTIVATIONS[activation]
        kernel = (config.kernel if plane else 1, config.kernel)
        self.kernel = Table(config.channels, before, *kernel)
        self.scale = Table(config.channels)
        self.shift = Table(config.channels)
        self.statistics: nn.BatchNorm2d | None = None

    def convolve(self, x_BCHW: torch.Tensor, along: int, lines: int) -> Work[torch.Tensor]:
        """So many lines of the output at a time. along: the dimension that counts them, 2 or 3."""
        conv = self._config
        # So that a side of whole strides gives exactly a stride's part of it.
        total = conv.kernel - conv.stride
        before, after = total // 2, total - total // 2
        rows = (before, after) if self._plane else (0, 0)
        x_padded = F.pad(x_BCHW, (before, after, *rows))
        pieces = []
        length = x_BCHW.shape[along] // self.shrink
        for start in range(0, length, lines):
            count = min(lines, length - start)
            y_BCHW = self._outputs(x_padded.narrow(along, start * self.shrink, count * self.shrink + total))
            pieces.append(x_BCHW.narrow(along, start, count) + y_BCHW if conv.residual else y_BCHW)
            yield
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=along)

    def _outputs(self, x_padded: torch.Tensor) -> torch.Tensor:
        conv = self._config
        stride = (conv.stride if self._plane else 1, conv.stride)
        y_BCHW = F.conv2d(x_padded, self.kernel.weight, None, stride)
        if conv.pool > 1:
            y_BCHW = F.max_pool2d(y_BCHW, (conv.pool if self._plane else 1, conv.pool))
        if self.statistics is not None:
            y_BCHW = self.statistics(y_BCHW)
        else:
            y_BCHW = y_BCHW * self.scale.weight[:, None, None] + self.shift.weight[:, None, None]
        return self._activation(y_BCHW)

    def normalise(self) -> None:
        """Normalise over batches from now on, as training does."""
        self.statistics = nn.BatchNorm2d(self._config.channels)

    def settle(self) -> None:
        """The statistics that were gathered as scale and shift, which give the same outputs."""
        found = self.statistics
        if found is None:
            return
        assert found.running_mean is not None
        assert found.running_var is not None
        with torch.no_grad():
            scale_C = found.weight / (found.running_var + found.eps).sqrt()
            self.scale.weight.copy_(scale_C)
            self.shift.weight.copy_(found.bias - found.running_mean * scale_C)
        self.statistics = None


class StemEncoder(Encoder):
    """Images [3, height, width], sounds [1, mel bins, frames] and series [channels, 1, length], sides of whole tokens
    -> [rows * columns, D]."""

    def __init__(self, config: StemConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.modality = config.modality
        self.placeholder = config.placeholder
        self._plane = PLANE[config.modality]
        channels = [config.channels, *(conv.channels for conv in config.convolutions)]
        self.stem = nn.ModuleList(
            Convolution(before, conv, config.activation, plane=self._plane)
            for before, conv in zip(channels, config.convolutions, strict=False)
        )
        size = config.hidden_size
        shape = PixtralConfig(
            hidden_size=size,
            intermediate_size=config.intermediate_size,
            num_layers=config.num_layers,
            num_heads=config.num_heads if config.num_layers else size // 4,
            patch_size=config.side,
            image_size=config.side,
            rope_theta=config.rope_theta,
        )
        self._shape = shape
        self.layers = nn.ModuleList(VisionBlock(shape) for _ in range(config.num_layers))
        self.norm = RMSNorm(size, 1e-5)
        self.projector = Projector(size, hidden_size, "gelu", bias=False)

    def normalise(self) -> None:
        """Convolutions normalise over batches from now on, as training does."""
        for convolution in self.stem:
            assert isinstance(convolution, Convolution)
            convolution.normalise()

    def settle(self) -> None:
        """They do not any more: what training gathered is in their scales and shifts."""
        for convolution in self.stem:
            assert isinstance(convolution, Convolution)
            convolution.settle()

    def check(self, media: MediaInput) -> None:
        side, channels = self.config.side, self.config.channels
        rows, columns = media.grid
        expected = {
            "image": (channels, rows * side, columns * side),
            "audio": (1, channels, columns * side),
            "series": (channels, 1, columns * side),
        }[self.modality]
        if min(media.grid) < 1 or media.shape != expected or not media.whole or (rows > 1 and not self._plane):
            raise refuse(media, f"{channels} channels of {side} elements a token")
        if media.tokens > self.config.max_tokens:
            raise refuse(media, f"at most {self.config.max_tokens} tokens")

    def encode(self, inputs: Sequence[torch.Tensor]) -> Work[list[torch.Tensor]]:
        maps = yield from self._convolve(inputs)
        grids = [(one.shape[1], one.shape[2]) for one in maps]
        lengths = [rows * columns for rows, columns in grids]
        x_NC = torch.cat([one.flatten(1).T for one in maps])
        if len(self.layers):
            angles = grid_angles(self._shape, grids, x_NC.device)
            for layer in self.layers:
                assert isinstance(layer, VisionBlock)
                x_NC = yield from layer.encode(x_NC, angles, lengths)
        out_ND = yield from in_pieces(lambda rows: self.projector(self.norm(rows)), x_NC)
        return list(torch.split(out_ND, lengths))

    def _convolve(self, inputs: Sequence[torch.Tensor]) -> Work[list[torch.Tensor]]:
        """[C, rows, columns] for each input; those of one shape go through the stem together."""
        dtype = self.norm.weight.dtype
        maps: dict[int, torch.Tensor] = {}
        shapes: dict[tuple[int, ...], list[int]] = {}
        for index, one in enumerate(inputs):
            shapes.setdefault(tuple(one.shape), []).append(index)
        for (_, height, width), alike in shapes.items():
            grid = (height // self.config.side if self._plane else 1, width // self.config.side)
            together = max(1, self._most() // (grid[0] * grid[1]))
            for start in range(0, len(alike), together):
                indices = alike[start : start + together]
                x_BCHW = torch.stack([inputs[index] for index in indices]).to(dtype)
                if self.modality == "audio":
                    x_BCHW = x_BCHW.transpose(1, 2)  # mel bins are channels
                x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
                maps |= dict(zip(indices, (yield from self._tokens(x_BCHW, grid)), strict=True))
        return [maps[index] for index in range(len(inputs))]

    def _tokens(self, x_BCHW: torch.Tensor, grid: tuple[int, int]) -> Work[torch.Tensor]:
        """[B, C, rows, columns]. Cut across the longer side, so that what is between two cuts is short."""
        along = 2 if self._plane and grid[0] >= grid[1] else 3
        lines = max(1, self._most() // (len(x_BCHW) * min(grid))) * self.config.side
        for convolution in self.stem:
            assert isinstance(convolution, Convolution)
            lines //= convolution.shrink
            x_BCHW = yield from convolution.convolve(x_BCHW, along, lines)
        return x_BCHW

    def _most(self) -> int:
        """Tokens of one piece of the stem: all of a batch while statistics are made, which are of all of it."""
        settled = all(isinstance(one, Convolution) and one.statistics is None for one in self.stem)
        return piece_rows(next(self.parameters()).device) if settled else 1 << 40
