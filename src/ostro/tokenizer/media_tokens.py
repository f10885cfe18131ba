"""Placeholders of media for mistral-common's templates, which else would decode images and sounds by themselves.

Media have been read when a conversation is rendered. The library gets chunks that only say how large each is, and
stand-ins for its encoders that lay out the tokens. It knows images and sounds only; anything else goes as an image,
whose stand-in knows better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from mistral_common.protocol.instruct.chunk import AudioURLChunk, ImageURLChunk
from mistral_common.tokens.tokenizers.audio import AudioEncoding
from mistral_common.tokens.tokenizers.image import ImageEncoding

from ostro.core.media import Grid, MediaInput
from ostro.tokenizer.placeholders import (
    IMAGE_MARKS,
    SERIES_MARKS,
    SOUND_MARKS,
    image_tokens,
    series_tokens,
    sound_tokens,
)


class MediaTokens:
    """specials: ids of control tokens by name. The two attributes are what the library calls encoders."""

    def __init__(self, specials: Mapping[str, int]) -> None:
        self.takes_images = all(name in specials for name in IMAGE_MARKS)
        self.takes_sounds = all(name in specials for name in SOUND_MARKS)
        self.takes_series = all(name in specials for name in SERIES_MARKS)
        self._ids = specials

    def of_image(self, chunk: Any) -> ImageEncoding:
        """The "pixels" are a number by which the input is known again."""
        modality, grid, digest = _read(chunk.get_url())
        lay_out = series_tokens if modality == "series" else image_tokens
        return ImageEncoding(lay_out(grid, self._ids), np.frombuffer(bytes.fromhex(digest), dtype=np.uint8))

    @property
    def of_sound(self) -> Any:
        """The library looks at the configuration of its encoder, too."""
        return _SoundStandIn(self._ids)

    @staticmethod
    def find(images: Sequence[np.ndarray], media: Sequence[MediaInput]) -> list[MediaInput]:
        """What went as images, in the order in which the template has put it."""
        by_digest = {one.digest: one for one in media}
        return [by_digest[image.tobytes().hex()] for image in images]


class _SoundStandIn:
    def __init__(self, specials: Mapping[str, int]) -> None:
        self._ids = specials
        self.audio_config = SimpleNamespace(is_streaming=False)
        self.special_ids = SimpleNamespace(audio=specials.get("[AUDIO]"), begin_audio=specials.get("[BEGIN_AUDIO]"))

    def __call__(self, chunk: Any) -> AudioEncoding:
        _, grid, _ = _read(chunk.url)
        return AudioEncoding(sound_tokens(grid, self._ids), None)


def chunk_of(media: MediaInput) -> ImageURLChunk | AudioURLChunk:
    """What stands for an input in a message that the library renders."""
    said = f"{media.modality}/{media.grid[0]}x{media.grid[1]}/{media.digest}"
    return AudioURLChunk(audio_url=said) if media.modality == "audio" else ImageURLChunk(image_url=said)


def _read(said: str) -> tuple[str, Grid, str]:
    modality, size, digest = said.split("/")
    rows, _, columns = size.partition("x")
    return modality, (int(rows), int(columns)), digest
