"""Spoken digits: read from a zip of sounds, split by take, changed in harmless ways, made mel frames as in serving."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from ostro.core.errors import InvalidRequestError, TrainingError
from ostro.media.audio import decode_audio
from ostro.media.audio_settings import AudioSettings
from ostro.media.mel import log_mel

DIGITS = tuple("0123456789")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Takes 0 to 4 are the data set's own test; of the 45 others these are for validation.
VALIDATION_TAKES = range(5, 10)
_NAME = re.compile(r"(\d)_([A-Za-z]+)_(\d+)\.wav")
# An utterance is made no shorter than this by moving it.
_LEAST_SECONDS = 0.1


@dataclass(frozen=True)
class Utterance:
    """digit: "0" to "9". take: which time the speaker said it. samples: float32 [N] at the settings' rate."""

    digit: str
    speaker: str
    take: int
    samples: np.ndarray


@dataclass(frozen=True)
class DigitSplit:
    """Disjoint parts. speaker: all takes of the speaker who is held out, if one is; nobody of whom is in the others."""

    train: tuple[Utterance, ...]
    validation: tuple[Utterance, ...]
    speaker: tuple[Utterance, ...] = ()


def read_digits(path: Path, settings: AudioSettings) -> tuple[Utterance, ...]:
    """A zip of wav files named digit_speaker_take, decoded by the code that serves, in the order of their names.

    Raises TrainingError that names the file in the zip.
    """
    utterances = []
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                found = _NAME.fullmatch(PurePosixPath(name).name)
                if found is None:
                    continue
                try:
                    samples = decode_audio(archive.read(name), settings, declared="wav")
                except InvalidRequestError as error:
                    raise TrainingError(f"{path}: {name} cannot be read: {error.message}") from error
                utterances.append(Utterance(found[1], found[2], int(found[3]), samples))
    except (OSError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{path} cannot be read as a zip: {error}. Give the data folder with --data.") from error
    if not utterances:
        raise TrainingError(f"{path} holds no sounds named digit_speaker_take.wav.")
    return tuple(utterances)


def split_digits(
    utterances: Sequence[Utterance], speaker: str | None = None, takes: Sequence[int] = VALIDATION_TAKES
) -> DigitSplit:
    """speaker: held out altogether. Raises TrainingError where a part would be empty."""
    others = [one for one in utterances if one.speaker != speaker]
    held_out = tuple(one for one in utterances if one.speaker == speaker)
    if speaker is not None and not held_out:
        known = ", ".join(sorted({one.speaker for one in utterances}))
        raise TrainingError(f"There is no speaker {speaker!r} to hold out; there are {known}.")
    split = DigitSplit(
        tuple(one for one in others if one.take not in takes),
        tuple(one for one in others if one.take in takes),
        held_out,
    )
    if not split.train or not split.validation:
        raise TrainingError(f"The sounds must have takes within and beyond {min(takes)} to {max(takes)}.")
    return split


def mel_of(samples: np.ndarray, settings: AudioSettings) -> np.ndarray:
    """float32 [1, mel_bins, frames], of whole tokens: what serving makes of the same samples."""
    return log_mel(samples, settings, settings.tokens(len(samples)))


# Augmentations: samples [N] or mel frames, and a source of randomness -> changed ones.


def gain(samples: np.ndarray, generator: np.random.Generator, most_db: float = 9.0) -> np.ndarray:
    """Louder or softer by up to so many decibels, but no louder than full scale."""
    factor = 10 ** (generator.uniform(-most_db, most_db) / 20)
    peak = float(np.abs(samples).max(initial=1e-9))
    return (samples * min(factor, 1 / peak)).astype(np.float32)


def shift(samples: np.ndarray, generator: np.random.Generator, rate: int, most_seconds: float = 0.2) -> np.ndarray:
    """Silence before and after, or a little cut off each end."""
    most = int(most_seconds * rate)
    before, after = (int(edge) for edge in generator.integers(-most // 8, most + 1, 2))
    cut = max(0, min(-before, len(samples) - int(_LEAST_SECONDS * rate)))
    kept = samples[cut:]
    end = max(0, min(-after, len(kept) - int(_LEAST_SECONDS * rate)))
    return np.pad(kept[: len(kept) - end], (max(before, 0), max(after, 0)))


def noise(
    samples: np.ndarray, generator: np.random.Generator, least_db: float = 8.0, most_db: float = 40.0
) -> np.ndarray:
    """Noise whose power is so many decibels below the sound's: white, or duller the further below."""
    ratio_db = generator.uniform(least_db, most_db)
    hiss = generator.standard_normal(len(samples)).astype(np.float32)
    if generator.random() < 0.5:
        # A moving average takes high frequencies away.
        hiss = np.convolve(hiss, np.ones(8, dtype=np.float32) / 8, mode="same")
    power, own = float(np.mean(samples**2)), float(np.mean(hiss**2))
    scale = (power / max(own, 1e-12) / 10 ** (ratio_db / 10)) ** 0.5
    noisy: np.ndarray = (samples + scale * hiss).astype(np.float32)
    return noisy


def speed(samples: np.ndarray, generator: np.random.Generator, least: float = 0.9, most: float = 1.1) -> np.ndarray:
    """Slower or faster, pitch included."""
    factor = generator.uniform(least, most)
    at = np.arange(max(1, int(len(samples) / factor))) * factor
    resampled: np.ndarray = np.interp(at, np.arange(len(samples)), samples).astype(np.float32)
    return resampled


def augment(samples: np.ndarray, generator: np.random.Generator, rate: int) -> np.ndarray:
    """Each of the above in a share of the cases."""
    if generator.random() < 0.7:
        samples = speed(samples, generator)
    if generator.random() < 0.8:
        samples = shift(samples, generator, rate)
    if generator.random() < 0.5:
        samples = noise(samples, generator)
    return gain(samples, generator)


def mask_mel(
    mel_1MF: np.ndarray, generator: np.random.Generator, bands: float = 0.2, frames: float = 0.2
) -> np.ndarray:
    """SpecAugment (Park et al. 2019, arXiv:1904.08779): a run of bands and a run of frames, up to such shares of all,
    become silence."""
    masked = mel_1MF.copy()
    floor = mel_1MF.min()
    for axis, share in ((1, bands), (2, frames)):
        size = mel_1MF.shape[axis]
        width = int(generator.integers(0, int(share * size) + 1))
        start = int(generator.integers(0, size - width + 1))
        index = [slice(None)] * 3
        index[axis] = slice(start, start + width)
        masked[tuple(index)] = floor
    return masked
