"""Stems of well-known encoders' shapes: Pixtral's patches up to 1024 pixels a side, Whisper's two convolutions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ostro.core.errors import InvalidRequestError
from ostro.core.media import MediaInput
from ostro.media.mel import log_mel
from ostro.media.senses import Senses, read_senses
from ostro.models.layers.encoder import PIECE_ROWS, Encoder, Work, finished, unhurried
from ostro.models.layers.linear import Linear
from ostro.models.ostro.encoder import StemEncoder
from ostro.models.ostro.stems import ConvConfig, StemConfig

IMAGE, AUDIO = 10, 24
# As Pixtral's: patches of 16 pixels, rotary positions in two dimensions, thousands of tokens.
PATCHES = StemConfig("image", 3, (ConvConfig(16, 16, 16),), 1, 2, 24, IMAGE)
# As Whisper's: mel frames are channels, and half as many rows come out.
FRAMES = StemConfig("audio", 80, (ConvConfig(24, 3, 1), ConvConfig(32, 3, 2)), 1, 2, 32, AUDIO, activation="gelu")
HIDDEN = 48
SECONDS = 30


def make(config: StemConfig) -> StemEncoder:
    torch.manual_seed(0)
    encoder = config.build(HIDDEN)
    assert isinstance(encoder, StemEncoder)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(std=0.15)
    return encoder.eval()


def senses_of(folder: Path, *stems: StemConfig, **tekken: Any) -> Senses:
    encoders = {stem.modality: stem.to_json() for stem in stems}
    (folder / "config.json").write_text(json.dumps({"model_type": "ostro", "encoders": encoders}))
    (folder / "tekken.json").write_text(json.dumps(tekken))
    return read_senses(folder)


def picture(rows: int, columns: int, side: int = 16) -> MediaInput:
    pixels = torch.randn(3, rows * side, columns * side, generator=torch.Generator().manual_seed(rows))
    return MediaInput.of("image", pixels.numpy(), (rows, columns))


def encoded(encoder: Encoder, *inputs: MediaInput) -> list[torch.Tensor]:
    with torch.inference_mode():
        return finished(encoder.encode([torch.tensor(one.array()) for one in inputs]))


# Images of 1024 pixels a side


def test_a_tokenizer_says_how_large_images_may_be(tmp_path: Path) -> None:
    large = StemConfig("image", 3, PATCHES.convolutions, 1, 2, 24, IMAGE, max_tokens=100 * 100)
    for stem, said, side in ((large, 1024, 1024), (large, 4096, 1600), (PATCHES, 1024, 1024), (PATCHES, 2048, 1024)):
        settings = senses_of(tmp_path, stem, image={"image_patch_size": 16, "max_image_size": said}).image
        assert settings is not None
        assert (settings.token_side, settings.max_side) == (16, side)
        assert settings.grid(4000, 4000) == (side // 16, side // 16)
        assert settings.grid(4000, 1000) == (side // 64, side // 16)


def test_as_many_tokens_as_the_config_says_are_taken() -> None:
    encoder = make(PATCHES)
    encoder.check(picture(64, 64))
    encoder.check(picture(1, 4096))
    for rows, columns in ((64, 65), (1, 4097)):
        with pytest.raises(InvalidRequestError, match="at most 4096 tokens"):
            encoder.check(picture(rows, columns))


class Pieces:
    """Rows that products, convolutions and attention make, counted apart for each piece of a work."""

    def __init__(self, encoder: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        self.largest: list[int] = []
        self._rows: list[int] = []
        for module in encoder.modules():
            if isinstance(module, Linear):
                module.register_forward_hook(lambda _, args, out: self._rows.append(len(args[0])))
        convolve, attend = F.conv2d, F.scaled_dot_product_attention

        def convolved(x_BCHW: torch.Tensor, *args: Any) -> torch.Tensor:
            out = convolve(x_BCHW, *args)
            self._rows.append(out.numel() // out.shape[1])
            return out

        def attended(q_BHLC: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
            self._rows.append(q_BHLC.shape[0] * q_BHLC.shape[2])
            return attend(q_BHLC, *args, **options)

        monkeypatch.setattr(F, "conv2d", convolved)
        monkeypatch.setattr(F, "scaled_dot_product_attention", attended)

    def run(self, work: Work[list[torch.Tensor]]) -> list[torch.Tensor]:
        return finished(self._watched(work))

    def _watched(self, work: Work[list[torch.Tensor]]) -> Work[list[torch.Tensor]]:
        with torch.inference_mode():
            while True:
                self._rows.clear()
                try:
                    next(work)
                except StopIteration as end:
                    outputs: list[torch.Tensor] = end.value
                    return outputs
                finally:
                    self.largest.append(max(self._rows, default=0))
                yield


def test_a_large_image_is_encoded_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make(PATCHES)
    pieces = Pieces(encoder, monkeypatch)
    (out_ND,) = pieces.run(encoder.encode([torch.tensor(picture(64, 64).array())]))
    assert out_ND.shape == (4096, HIDDEN)
    assert torch.isfinite(out_ND).all()
    assert max(pieces.largest) <= PIECE_ROWS
    # Patches, projections, attention, what follows it, projector: each in pieces of that many rows.
    assert sum(rows > 0 for rows in pieces.largest) == 5 * 4096 // PIECE_ROWS


def test_patches_are_products() -> None:
    """Without layers a token is a function of its own 16 x 16 pixels, row by row."""
    encoder = make(StemConfig("image", 3, PATCHES.convolutions, 0, 1, 1, IMAGE))
    media = picture(40, 37)
    (out_ND,) = encoded(encoder, media)
    kernel_CP = encoder.stem[0].kernel.weight.flatten(1)  # type: ignore[union-attr, operator]  # a Module's attributes have no types
    scale, shift = encoder.stem[0].scale.weight, encoder.stem[0].shift.weight  # type: ignore[union-attr]  # a Module's attributes have no types
    pixels = torch.tensor(media.array())
    with torch.inference_mode():
        rows = []
        for row in range(40):
            for column in range(37):
                patch = pixels[:, row * 16 : row * 16 + 16, column * 16 : column * 16 + 16].flatten()
                rows.append(F.silu(kernel_CP @ patch * scale + shift))  # type: ignore[operator]  # a Module's attributes have no types
        expected_ND = encoder.projector(encoder.norm(torch.stack(rows)))
    torch.testing.assert_close(out_ND, expected_ND, atol=1e-4, rtol=1e-4)


# Half a minute of sound


def mel(tmp_path: Path, seconds: float) -> MediaInput:
    audio = {
        "sampling_rate": 16_000,
        "frame_rate": 50.0,
        "audio_encoding_config": {"num_mel_bins": 80, "hop_length": 160, "window_size": 400},
    }
    settings = senses_of(tmp_path, FRAMES, audio=audio).audio
    assert settings is not None
    samples = np.sin(np.arange(int(seconds * 16_000), dtype=np.float32) ** 1.5 / 300).astype(np.float32)
    tokens = settings.tokens(len(samples))
    return MediaInput.of("audio", log_mel(samples, settings, tokens), (1, tokens))


def test_half_a_minute_of_sound_is_fifty_rows_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make(FRAMES)
    sound = mel(tmp_path, SECONDS)
    assert (sound.shape, sound.grid) == ((1, 80, 3000), (1, 1500))
    encoder.check(sound)
    with pytest.raises(InvalidRequestError, match="80 channels of 2 elements a token"):
        encoder.check(MediaInput("audio", "x", (1, 80, 3001), sound.data + bytes(320), (1, 1500)))
    pieces = Pieces(encoder, monkeypatch)
    (out_ND,) = pieces.run(encoder.encode([torch.tensor(sound.array())]))
    assert out_ND.shape == (1500, HIDDEN)
    # The first convolution goes on by one frame, so that it makes two rows for each of the second's.
    assert max(pieces.largest) <= 2 * PIECE_ROWS


def test_sound_goes_through_convolutions_over_time(tmp_path: Path) -> None:
    """Frame by frame, without layers: two convolutions whose windows end where a row's frames do, or one after."""
    encoder = make(StemConfig("audio", 80, FRAMES.convolutions, 0, 1, 1, AUDIO, activation="gelu"))
    sound = mel(tmp_path, 4)
    (out_ND,) = encoded(encoder, sound)
    x_CF = torch.tensor(sound.array())[0]
    with torch.inference_mode():
        for convolution, stride, (before, after) in zip(encoder.stem, (1, 2), ((1, 1), (0, 1)), strict=True):
            kernel_OCK = convolution.kernel.weight[:, :, 0]  # type: ignore[union-attr, index]  # a Module's attributes have no types
            x_CF = F.pad(x_CF, (before, after))
            rows = []
            for start in range(0, x_CF.shape[1] - 2, stride):
                total_O = (kernel_OCK * x_CF[:, start : start + 3]).sum((1, 2))
                rows.append(F.gelu(total_O * convolution.scale.weight + convolution.shift.weight))  # type: ignore[union-attr, operator]  # a Module's attributes have no types
            x_CF = torch.stack(rows, 1)
        expected_ND = encoder.projector(encoder.norm(x_CF.T))
    assert len(out_ND) == 200
    torch.testing.assert_close(out_ND, expected_ND, atol=1e-4, rtol=1e-4)


# Pieces of a stem


def inputs_of(config: StemConfig, *grids: tuple[int, int]) -> Iterator[torch.Tensor]:
    side = config.side
    for seed, (rows, columns) in enumerate(grids):
        height = {"image": rows * side, "audio": config.channels, "series": 1}[config.modality]
        first = {"image": config.channels, "audio": 1, "series": config.channels}[config.modality]
        yield torch.randn(first, height, columns * side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("modality", "convolutions", "grids"),
    [
        ("image", (ConvConfig(8, 3, 2), ConvConfig(8, residual=True), ConvConfig(8, pool=2)), ((30, 20), (3, 200))),
        ("image", (ConvConfig(8, 7, 2, pool=3), ConvConfig(8, 4, 1)), ((17, 13), (17, 13), (1, 1), (3, 3), (17, 13))),
        ("audio", (ConvConfig(8, 5, 2), ConvConfig(8, 5, residual=True), ConvConfig(8, 3, 1, 2)), ((1, 300), (1, 1))),
        ("series", (ConvConfig(8, 4, 4), ConvConfig(8, 2, 1)), ((1, 129), (1, 1), (1, 128))),
    ],
)
def test_a_stem_in_pieces_is_the_whole_stem(
    modality: str, convolutions: Sequence[ConvConfig], grids: Sequence[tuple[int, int]]
) -> None:
    """What is beyond a piece's edge is the input that is there, not zeros."""
    config = StemConfig(modality, 3, tuple(convolutions), 0, 1, 1, IMAGE)
    encoder = make(config)
    inputs = list(inputs_of(config, *grids))
    with torch.inference_mode():
        cut = finished(encoder.encode(inputs))
        with unhurried():
            whole = finished(encoder.encode(inputs))
    for (rows, columns), first, second in zip(grids, cut, whole, strict=True):
        assert first.shape == (rows * columns, HIDDEN)
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


def test_statistics_are_of_a_whole_batch() -> None:
    """However large: a mean over pieces would be another."""
    config = StemConfig("image", 3, (ConvConfig(8, 4, 4),), 0, 1, 1, IMAGE)
    inputs = [one * (1 + index) for index, one in enumerate(inputs_of(config, *[(8, 8)] * 4))]
    encoder = make(config)
    encoder.normalise()
    encoder.train()
    beside = torch.cat(finished(encoder.encode(inputs)))
    with unhurried():
        alone = torch.cat(finished(encoder.encode(inputs)))
    torch.testing.assert_close(beside, alone, atol=1e-5, rtol=1e-5)
