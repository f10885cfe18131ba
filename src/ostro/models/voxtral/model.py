"""Whisper's encoder (arXiv:2212.04356) over chunks of sound, each hearing itself only; then the projector.

The decoder is the dense one; the sound encoder comes with its config.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ostro.core.media import MediaInput
from ostro.kernels.linear import linear
from ostro.models.layers.decoder import Decoder
from ostro.models.layers.encoder import (
    ACTIVATIONS,
    BATCH_ROWS,
    Encoder,
    LayerNorm,
    Projector,
    Table,
    Work,
    attend_within,
    in_pieces,
    refuse,
)
from ostro.models.layers.linear import Linear
from ostro.models.voxtral.config import VoxtralConfig

MODEL = Decoder

# Of both convolutions; the second goes on by two.
KERNEL = 3
FRAMES_PER_ROW = 2


class Convolution(Table):
    """One dimension, three frames wide, zeros beyond the ends, GELU, of each chunk by itself: [B, F, channels] ->
    [B, F / stride, C]."""

    def __init__(self, channels: int, size: int, stride: int) -> None:
        super().__init__(size, channels, KERNEL)
        self.bias = Table(size)
        self._stride = stride

    def convolve(self, x_BFI: torch.Tensor) -> Work[torch.Tensor]:
        # As a product, so that it can be done some rows at a time.
        windows_BNIK = F.pad(x_BFI, (0, 0, 1, 1)).unfold(1, KERNEL, self._stride)
        rows_NC = yield from in_pieces(self._rows, windows_BNIK.flatten(0, 1))
        return rows_NC.view(*windows_BNIK.shape[:2], -1)

    def _rows(self, windows_NIK: torch.Tensor) -> torch.Tensor:
        return F.gelu(linear(windows_NIK.flatten(1), self.weight.flatten(1)) + self.bias.weight)


class SoundBlock(nn.Module):
    """Pre-norm attention and a feed-forward layer, with biases everywhere but on keys."""

    def __init__(self, config: VoxtralConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.attention_norm = LayerNorm(size)
        self.qkv = Linear(size, {"q": size, "k": size, "v": size}, bias=("q", "v"))
        self.output = Linear(size, size, bias=True)
        self.feed_forward_norm = LayerNorm(size)
        self.up = Linear(size, config.intermediate_size, bias=True)
        self.down = Linear(config.intermediate_size, size, bias=True)
        self._heads, self._head_dim = config.num_heads, config.head_dim
        self._activation: Callable[[torch.Tensor], torch.Tensor] = ACTIVATIONS[config.activation]

    def encode(self, x_NC: torch.Tensor, lengths: Sequence[int]) -> Work[torch.Tensor]:
        qkv_NE = yield from in_pieces(lambda rows: self.qkv(self.attention_norm(rows)), x_NC)
        q_NHC, k_NHC, v_NHC = qkv_NE.view(-1, 3, self._heads, self._head_dim).unbind(1)
        heard_NC = yield from attend_within(q_NHC, k_NHC, v_NHC, lengths, self._head_dim**-0.5)
        size = x_NC.shape[1]
        both_NC = torch.cat((x_NC, heard_NC), dim=1)
        return (yield from in_pieces(lambda rows: self._rest(rows[:, :size], rows[:, size:]), both_NC))

    def _rest(self, x_NC: torch.Tensor, heard_NC: torch.Tensor) -> torch.Tensor:
        x_NC = x_NC + self.output(heard_NC)
        x_NC = x_NC + self.down(self._activation(self.up(self.feed_forward_norm(x_NC))))
        if x_NC.dtype == torch.float16:
            # Some checkpoints overflow, as Whisper's do.
            most = torch.finfo(torch.float16).max - 1000
            x_NC = x_NC.clamp(-most, most)
        return x_NC


class VoxtralEncoder(Encoder):
    """Sounds as float32 [chunks, mel_bins, frames], log-mel, whole chunks -> [tokens, D]."""

    modality = "audio"

    def __init__(self, config: VoxtralConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.placeholder = config.placeholder
        size = config.hidden_size
        self.first = Convolution(config.mel_bins, size, 1)
        self.second = Convolution(size, size, FRAMES_PER_ROW)
        self.positions = Table(config.positions, size) if config.stored_positions else None
        self.layers = nn.ModuleList(SoundBlock(config) for _ in range(config.num_layers))
        self.norm = LayerNorm(size)
        self.projector = Projector(size * config.merge, hidden_size, config.projector_activation, bias=False)

    def check(self, media: MediaInput) -> None:
        chunk = self.config.positions // self.config.merge
        chunks = media.grid[1] // chunk
        expected = (chunks, self.config.mel_bins, self.config.positions * FRAMES_PER_ROW)
        if media.grid != (1, chunks * chunk) or media.shape != expected or not media.whole:
            raise refuse(
                media,
                f"chunks of {self.config.mel_bins} mel bands and {expected[2]} frames, {chunk} tokens each in one row",
            )

    def cost(self, media: MediaInput) -> int:
        return media.tokens * self.config.merge

    def encode(self, inputs: Sequence[torch.Tensor]) -> Work[list[torch.Tensor]]:
        positions_NC = self._positions(self.norm.scale.weight.device)
        # Chunks of all sounds side by side, but few, so that an hour takes no more memory than a minute.
        chunks = [mel_MF for sound in inputs for mel_MF in sound]
        together = max(1, BATCH_ROWS // self.config.positions)
        done = []
        for start in range(0, len(chunks), together):
            done.append((yield from self._encode_chunks(chunks[start : start + together], positions_NC)))
        sizes = [len(sound) * self.config.positions // self.config.merge for sound in inputs]
        return list(torch.split(torch.cat(done), sizes))

    def _encode_chunks(self, chunks: Sequence[torch.Tensor], positions_NC: torch.Tensor) -> Work[torch.Tensor]:
        """[mel_bins, frames] each -> the tokens of all of them [T, D]."""
        dtype = self.norm.scale.weight.dtype
        x_BFC = yield from self.first.convolve(torch.stack([mel_MF.T for mel_MF in chunks]).to(dtype))
        x_BNC = yield from self.second.convolve(x_BFC)
        x_NC = (x_BNC + positions_NC).to(dtype).flatten(0, 1)
        for layer in self.layers:
            assert isinstance(layer, SoundBlock)
            x_NC = yield from layer.encode(x_NC, [self.config.positions] * len(chunks))
        merged_NC = self.norm(x_NC).view(-1, self.config.merge * x_NC.shape[1])
        return (yield from in_pieces(self.projector, merged_NC))

    def _positions(self, device: torch.device) -> torch.Tensor:
        """[positions, C]: the checkpoint's, or Whisper's sinusoids: sines of all frequencies, then cosines."""
        if self.positions is not None:
            return self.positions.weight
        half = self.config.hidden_size // 2
        # Rounded as the reference rounds: a last bit of a frequency moves the last positions by 1e-4.
        frequencies = torch.exp(-math.log(10_000) / max(half - 1, 1) * torch.arange(half, device=device))
        angles_NC = torch.arange(self.config.positions, device=device)[:, None] * frequencies
        return torch.cat((angles_NC.sin(), angles_NC.cos()), dim=1)
