"""What an encoder is pre-trained on: inputs of one sense, and captions of what they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from ostro.media.audio_settings import AudioSettings
from ostro.media.series import SeriesSettings, read_series
from ostro.training.senses import digits, photos, signals

# Captions of a label; training draws one, evaluation takes all.
PHOTO_CAPTIONS = (
    "a photo of a {}", "a picture of a {}", "a small photo of the {}", "this is a {}", "one {}",
    "there is a {} here", "一张 {} 的照片", "图片里是 {}",
)  # fmt: skip
DIGIT_CAPTIONS = ("the digit {}", "somebody says {}", "the number {} is spoken", "说的是 {}")
SIGNAL_CAPTIONS = ("the series is {}", "a {} signal", "readings that are {}", "这个序列 {}")

# Rows and columns of a picture's photos.
GRIDS = ((1, 2), (2, 1), (2, 2))


class Batch(NamedTuple):
    """Inputs, and the number of the label of each part: all of an input, or `parts` rows and columns of it, all of one
    size, in reading order."""

    inputs: list[torch.Tensor]
    labels: list[int]
    parts: tuple[int, int] = (1, 1)


class Pairs(ABC):
    """labels: what inputs can be of. captions: templates of what is said of one."""

    labels: tuple[str, ...]
    captions: tuple[str, ...]

    @abstractmethod
    def batch(self, seed: int, step: int, count: int) -> Batch:
        """`count` inputs, augmented, and the numbers of their labels: a function of (seed, step)."""

    @abstractmethod
    def validation(self) -> Iterator[Batch]:
        """All that training never sees, a part at a time, as it is."""

    def validations(self) -> dict[str, Iterator[Batch]]:
        """By the name of the figure that they give."""
        return {"accuracy": self.validation()}


class PhotoPairs(Pairs):
    """grids: share of the steps whose photos come several to a picture, each part with a caption of its own. An encoder
    that sees single ones only does not keep apart what stands side by side. large: share of the steps with a quarter of
    the photos at twice their size, so that what is near is known, too."""

    def __init__(self, train: photos.Photos, validation: photos.Photos, grids: float = 0.0, large: float = 0.0) -> None:
        self.labels, self.captions = train.classes, PHOTO_CAPTIONS
        self._train, self._validation, self._grids, self._large = train, validation, grids, large

    def batch(self, seed: int, step: int, count: int) -> Batch:
        chosen = _epoch_slice(len(self._train), seed, step, count)
        generator = np.random.default_rng([seed, step])
        drawn = generator.random()
        large = self._grids <= drawn < self._grids + self._large
        if large:
            chosen = chosen[: max(1, count // 4)]
        changed = photos.augment(self._train.images[chosen], generator)
        if large:
            changed = _doubled(changed)
        parts = GRIDS[generator.integers(len(GRIDS))] if drawn < self._grids else (1, 1)
        return _pictures(changed, self._train.labels[chosen], parts)

    def validation(self) -> Iterator[Batch]:
        return self._as_they_are((1, 1))

    def validations(self) -> dict[str, Iterator[Batch]]:
        found = {"accuracy": self.validation()}
        found |= {"grid_accuracy": self._as_they_are(GRIDS[-1])} if self._grids else {}
        return found | ({"large_accuracy": self._enlarged()} if self._large else {})

    def _as_they_are(self, parts: tuple[int, int]) -> Iterator[Batch]:
        for start in range(0, len(self._validation), 500):
            part = slice(start, start + 500)
            yield _pictures(self._validation.images[part], self._validation.labels[part], parts)

    def _enlarged(self) -> Iterator[Batch]:
        """A fifth of them, of all classes, for they take four times as long."""
        images, labels = self._validation.images[::5], self._validation.labels[::5]
        for start in range(0, len(images), 125):
            part = slice(start, start + 125)
            yield _pictures(_doubled(images[part]), labels[part])


def _doubled(images_BHW3: np.ndarray) -> np.ndarray:
    return photos.enlarged(images_BHW3, 2 * images_BHW3.shape[1], 2 * images_BHW3.shape[2])


def _pictures(images_BHW3: np.ndarray, labels_B: np.ndarray, parts: tuple[int, int] = (1, 1)) -> Batch:
    """Photos of one size, so many rows and columns of them to a picture; what fills none is left out."""
    rows, columns = parts
    count = len(images_BHW3) // (rows * columns)
    cells = images_BHW3[: count * rows * columns].reshape(count, rows, columns, *images_BHW3.shape[1:])
    height, width = cells.shape[3:5]
    pictures = cells.transpose(0, 1, 3, 2, 4, 5).reshape(count, rows * height, columns * width, 3)
    inputs = list(torch.from_numpy(photos.normalised(pictures)))
    return Batch(inputs, labels_B[: count * rows * columns].tolist(), parts)


class DigitPairs(Pairs):
    def __init__(self, split: digits.DigitSplit, settings: AudioSettings) -> None:
        self.labels, self.captions = tuple("0123456789"), DIGIT_CAPTIONS
        self._split, self._settings = split, settings

    def batch(self, seed: int, step: int, count: int) -> Batch:
        inputs, labels = [], []
        for index in _epoch_slice(len(self._split.train), seed, step, count):
            one = self._split.train[index]
            generator = np.random.default_rng([seed, step, int(index)])
            samples = digits.augment(one.samples, generator, self._settings.sampling_rate)
            mel = digits.mask_mel(digits.mel_of(samples, self._settings), generator)
            inputs.append(torch.from_numpy(mel))
            labels.append(self.labels.index(one.digit))
        return Batch(inputs, labels)

    def validation(self) -> Iterator[Batch]:
        yield self._as_is(self._split.validation)

    def other_speaker(self) -> Batch | None:
        """Somebody who is in neither part, if one is held out."""
        return self._as_is(self._split.speaker) if self._split.speaker else None

    def _as_is(self, utterances: Sequence[digits.Utterance]) -> Batch:
        mels = [torch.from_numpy(digits.mel_of(one.samples, self._settings)) for one in utterances]
        return Batch(mels, [self.labels.index(one.digit) for one in utterances])


class SignalPairs(Pairs):
    """Made as they are asked for. Validation has seeds of its own, which training never draws."""

    def __init__(self, settings: SeriesSettings, count: int = 800) -> None:
        self.labels, self.captions = signals.KINDS, SIGNAL_CAPTIONS
        self._settings, self._count = settings, count

    def batch(self, seed: int, step: int, count: int) -> Batch:
        return self._made([1, seed, step], count)

    def validation(self) -> Iterator[Batch]:
        yield self._made([0], self._count)

    def _made(self, seed: list[int], count: int) -> Batch:
        inputs, labels = [], []
        for index in range(count):
            generator = np.random.default_rng([*seed, index])
            label = int(generator.integers(len(self.labels)))
            values = signals.make_signal(self.labels[label], generator)
            inputs.append(torch.tensor(read_series(values.tolist(), self._settings).array()))
            labels.append(label)
        return Batch(inputs, labels)


def _epoch_slice(size: int, seed: int, step: int, count: int) -> np.ndarray:
    """Numbers for a step: every epoch goes through all in an order of its own, but for what fills no batch."""
    count = min(count, size)
    epoch, at = divmod(step, size // count)
    order = np.random.default_rng([seed, 7, epoch]).permutation(size)
    return order[at * count : (at + 1) * count]
