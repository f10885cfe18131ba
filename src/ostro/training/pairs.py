"""What an encoder is pre-trained on: inputs of one sense, and captions of what they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

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

Batch = tuple[list[torch.Tensor], list[int]]


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


class PhotoPairs(Pairs):
    def __init__(self, train: photos.Photos, validation: photos.Photos) -> None:
        self.labels, self.captions = train.classes, PHOTO_CAPTIONS
        self._train, self._validation = train, validation

    def batch(self, seed: int, step: int, count: int) -> Batch:
        chosen = _epoch_slice(len(self._train), seed, step, count)
        changed = photos.augment(self._train.images[chosen], np.random.default_rng([seed, step]))
        inputs = torch.from_numpy(photos.normalised(changed))
        return list(inputs), self._train.labels[chosen].tolist()

    def validation(self) -> Iterator[Batch]:
        for start in range(0, len(self._validation), 500):
            part = slice(start, start + 500)
            inputs = torch.from_numpy(photos.normalised(self._validation.images[part]))
            yield list(inputs), self._validation.labels[part].tolist()


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
        return inputs, labels

    def validation(self) -> Iterator[Batch]:
        yield self._as_is(self._split.validation)

    def other_speaker(self) -> Batch | None:
        """Somebody who is in neither part, if one is held out."""
        return self._as_is(self._split.speaker) if self._split.speaker else None

    def _as_is(self, utterances: Sequence[digits.Utterance]) -> Batch:
        mels = [torch.from_numpy(digits.mel_of(one.samples, self._settings)) for one in utterances]
        return mels, [self.labels.index(one.digit) for one in utterances]


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
        return inputs, labels


def _epoch_slice(size: int, seed: int, step: int, count: int) -> np.ndarray:
    """Numbers for a step: every epoch goes through all in an order of its own, but for what fills no batch."""
    count = min(count, size)
    epoch, at = divmod(step, size // count)
    order = np.random.default_rng([seed, 7, epoch]).permutation(size)
    return order[at * count : (at + 1) * count]
