"""Images, sounds and whatever else a model senses, as they cross into an engine; and prompts that hold them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import numpy as np

# What a model may sense beside text.
SENSES = ("image", "audio", "series")
# How parts of a message are named, and what they hold.
KINDS = {
    "image_url": "image",
    "image": "image",
    "input_image": "image",
    "input_audio": "audio",
    "audio_url": "audio",
    "audio": "audio",
    "input_series": "series",
    "video_url": "video",
    "file": "file",
}

# Of an image: placeholders of so many rows and columns. Sounds and series have one row.
Grid = tuple[int, int]


class MediaInput(msgspec.Struct, frozen=True):
    """One image or clip as the model's encoder takes it: float32, little-endian, C order.

    modality: "image", "audio" or another sense that the model has. digest: names the content; equal inputs have
    equal digests. grid: rows and columns of the placeholders that stand for it in a prompt.
    """

    modality: str
    digest: str
    shape: tuple[int, ...]
    data: bytes
    grid: Grid

    @classmethod
    def of(cls, modality: str, array: np.ndarray, grid: Grid) -> MediaInput:
        data = array.astype("<f4", order="C", copy=False).tobytes()
        state = hashlib.blake2b(repr((modality, array.shape, grid)).encode(), digest_size=16)
        state.update(data)
        return cls(modality, state.hexdigest(), tuple(array.shape), data, grid)

    def array(self) -> np.ndarray:
        """The numbers, read-only. Raises ValueError where there are more or fewer than `shape` says."""
        import numpy as np

        return np.frombuffer(self.data, dtype="<f4").reshape(self.shape)

    @property
    def whole(self) -> bool:
        """Whether there are as many numbers as `shape` says."""
        return len(self.data) == 4 * math.prod(self.shape) and all(size > 0 for size in self.shape)

    @property
    def tokens(self) -> int:
        """How many placeholders stand for it."""
        return self.grid[0] * self.grid[1]


class MediaSpan(msgspec.Struct, frozen=True):
    """Positions [start, start + length) of a prompt that take rows [offset, offset + length) of what an encoder makes
    of the input with that digest."""

    start: int
    length: int
    digest: str
    modality: str
    offset: int = 0

    @property
    def stop(self) -> int:
        return self.start + self.length


class Prompt(msgspec.Struct, frozen=True):
    """Token ids, and the media that stand in for some of them: spans in order, each input once."""

    token_ids: list[int]
    spans: list[MediaSpan] = []
    media: list[MediaInput] = []

    @classmethod
    def placing(cls, token_ids: list[int], media: Sequence[MediaInput], placeholders: Mapping[str, int]) -> Prompt:
        """Spans for media, those of one modality in the order in which they stand in the tokens.

        placeholders: the token that stands for each modality. Raises ValueError where tokens and media do not agree.
        """
        modality_of = {token: modality for modality, token in placeholders.items()}
        queues = {modality: [one for one in media if one.modality == modality][::-1] for modality in placeholders}
        spans: list[MediaSpan] = []
        done: dict[str, int] = {}  # rows of the input in front that have places already, by modality
        at = 0
        while at < len(token_ids):
            modality = modality_of.get(token_ids[at])
            if modality is None:
                at += 1
                continue
            if not queues[modality]:
                raise ValueError(f"more places for {modality} than inputs")
            one = queues[modality][-1]
            start, offset = at, done.get(modality, 0)
            while at < len(token_ids) and token_ids[at] == token_ids[start] and at - start < one.tokens - offset:
                at += 1
            spans.append(MediaSpan(start, at - start, one.digest, modality, offset))
            done[modality] = offset + at - start
            if done[modality] == one.tokens:
                queues[modality].pop()
                done[modality] = 0
        if any(queues.values()):
            raise ValueError("inputs without enough places")
        return cls(token_ids, spans, list({one.digest: one for one in media}.values()))
