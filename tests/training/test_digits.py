"""Spoken digits are split by take and speaker, changed within bounds, and analysed as serving analyses them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sense_data import SENSES, spoken, write_digits

from ostro.core.errors import TrainingError
from ostro.media.audio import read_audio
from ostro.training.senses.digits import (
    augment,
    gain,
    mask_mel,
    mel_of,
    noise,
    read_digits,
    shift,
    speed,
    split_digits,
)

AUDIO = SENSES.audio
assert AUDIO is not None
RATE = AUDIO.sampling_rate


def test_a_zip_is_read_and_split_without_overlap(tmp_path: Path) -> None:
    utterances = read_digits(write_digits(tmp_path / "digits.zip"), AUDIO)
    assert len(utterances) == 40
    assert [(one.digit, one.speaker, one.take) for one in utterances[:2]] == [("3", "ann", 10), ("3", "ann", 11)]
    assert len(utterances[0].samples) == pytest.approx(0.3 * RATE, abs=2), "resampled to the model's rate"
    split = split_digits(utterances)
    assert {one.take for one in split.validation} == {5, 6, 7, 8, 9}
    assert {one.take for one in split.train} == {10, 11, 12, 13, 14}
    assert split.speaker == ()
    held = split_digits(utterances, "bob", takes=range(5, 7))
    assert {one.speaker for one in (*held.train, *held.validation)} == {"ann"}
    assert {one.speaker for one in held.speaker} == {"bob"}
    assert len(held.train) + len(held.validation) + len(held.speaker) == 40
    with pytest.raises(TrainingError, match="there are ann, bob"):
        split_digits(utterances, "eve")
    with pytest.raises(TrainingError, match="takes within and beyond"):
        split_digits([one for one in utterances if one.take > 9])


def test_bad_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "digits.zip"
    with pytest.raises(TrainingError, match="--data"):
        read_digits(path, AUDIO)
    for name, match in (("1_ann_5.wav", "1_ann_5.wav cannot be read"), ("one.wav", "no sounds named")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, b"RIFF")
        with pytest.raises(TrainingError, match=match):
            read_digits(path, AUDIO)


def test_training_and_serving_see_the_same_frames(tmp_path: Path) -> None:
    path = write_digits(tmp_path / "digits.zip", range(5, 7))
    for utterance in read_digits(path, AUDIO):
        with zipfile.ZipFile(path) as archive:
            data = archive.read(f"{utterance.digit}_{utterance.speaker}_{utterance.take}.wav")
        served = read_audio(data, AUDIO)
        np.testing.assert_array_equal(mel_of(utterance.samples, AUDIO), served.array())
    out = io.BytesIO()
    soundfile.write(out, spoken(1, 0.37, 44_100), 44_100, format="FLAC")
    assert read_audio(out.getvalue(), AUDIO).tokens == 10


def test_augmentations_are_pure_and_bounded() -> None:
    samples = spoken(0, 0.4, RATE)
    before = samples.copy()
    lengths, peaks = set(), []
    for seed in range(200):
        one, again = (augment(samples, np.random.default_rng(seed), RATE) for _ in range(2))
        np.testing.assert_array_equal(one, again)
        assert one.dtype == np.float32
        assert np.isfinite(one).all()
        lengths.add(len(one))
        peaks.append(np.abs(one).max())
    np.testing.assert_array_equal(samples, before)
    assert 0.3 * RATE < min(lengths) < max(lengths) < (0.4 / 0.9 + 0.4) * RATE + 2
    assert max(peaks) <= 1.0 + 1e-6
    assert min(peaks) > 0.05
    assert len(lengths) > 50


def test_each_augmentation_does_what_it_says() -> None:
    samples = spoken(0, 0.4, RATE)
    for seed in range(50):
        generator = np.random.default_rng(seed)
        louder = gain(samples, generator)
        factor = louder[1000] / samples[1000]
        np.testing.assert_allclose(louder, samples * factor, rtol=1e-4)
        assert 10 ** (-9 / 20) - 1e-3 <= factor <= 10 ** (9 / 20) + 1e-3
        noisy = noise(samples, generator, 8, 40) - samples
        ratio = 10 * np.log10(np.mean(samples**2) / np.mean(noisy**2))
        assert 7.9 < ratio < 40.1
        assert 0.9 <= len(samples) / len(speed(samples, generator)) <= 1.101
        moved = shift(samples, generator, RATE)
        assert np.abs(moved).sum() <= np.abs(samples).sum() * (1 + 1e-5), "nothing is added but silence"
        assert np.abs(moved).sum() > np.abs(samples).sum() * 0.8


def test_masks_are_a_run_of_bands_and_a_run_of_frames() -> None:
    mel = mel_of(spoken(0, 0.8, RATE), AUDIO)
    for seed in range(50):
        masked = mask_mel(mel, np.random.default_rng(seed))
        changed = (masked != mel)[0]
        bands, frames = changed.mean(axis=1) > 0.9, changed.mean(axis=0) > 0.9
        assert bands.mean() <= 0.2
        assert frames.mean() <= 0.2
        assert masked.min() == mel.min()
