"""Contrastive pre-training: it learns, from inputs that are changed at every step, in the types that it was told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from sense_data import write_digits, write_photos

from ostro.media.audio import AudioSettings
from ostro.media.series import SeriesSettings
from ostro.models.ostro.encoder import StemEncoder
from ostro.models.ostro.stems import ConvConfig, StemConfig
from ostro.training.pairs import DigitPairs, PhotoPairs, SignalPairs
from ostro.training.pretrain import Pretrainer, PretrainRecipe, Towers, zero_shot
from ostro.training.senses.digits import mel_of, read_digits, split_digits
from ostro.training.senses.photos import normalised, read_photos, split_photos

STEM = StemConfig("series", 4, (ConvConfig(24, 4, 4), ConvConfig(24, residual=True)), 1, 2, 48, 9)
AUDIO = AudioSettings(mel_bins=16, chunk_seconds=None, frame_rate=25.0)


def pretrainer(folder: Path, **changes: Any) -> Pretrainer:
    values = {"steps": 60, "batch": 32, "width": 16, "precision": "fp32", "ema": 0.9, "evaluate_every": 60, **changes}
    return Pretrainer(
        StemEncoder(STEM, 32),
        SignalPairs(SeriesSettings(STEM.side), 200),
        msgspec.convert(values, PretrainRecipe),
        hidden_size=32,
        seed=5,
        folder=folder,
        fingerprint="",
    )


def test_what_something_is_called_is_learnt(tmp_path: Path) -> None:
    """From chance to most, by captions alone; and of the loss that is watched the same is to be said."""
    trainer = pretrainer(tmp_path)
    pairs = SignalPairs(SeriesSettings(STEM.side), 200)
    before = zero_shot(trainer.average, pairs)
    figures: list[dict[str, float]] = []
    trainer.run(lambda _, found: figures.append(found))
    assert before < 0.4
    assert figures[-1]["accuracy"] > 0.5
    assert figures[-1]["accuracy"] == zero_shot(trainer.average, pairs)
    assert figures[-1]["loss"] < 0.8 * figures[0]["loss"]


@pytest.mark.parametrize(
    ("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_products_are_of_the_type_that_was_told(tmp_path: Path, precision: str, expected: torch.dtype) -> None:
    trainer = pretrainer(tmp_path, precision=precision)
    seen: list[torch.dtype] = []
    trainer.towers.projection.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    trainer.run(lambda *_: None, until=2)
    assert seen == [expected, expected]
    assert {p.dtype for p in trainer.towers.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_it_goes_on_as_if_it_had_not_been_broken_off(tmp_path: Path, precision: str) -> None:
    """Of half precision the scale of losses is kept too."""
    unbroken = pretrainer(tmp_path / "a", precision=precision)
    unbroken.run(lambda *_: None, until=6)
    pretrainer(tmp_path / "b", precision=precision).run(lambda *_: None, until=3)
    resumed = pretrainer(tmp_path / "b", precision=precision)
    assert resumed.resume()
    resumed.run(lambda *_: None, until=6)
    for name, value in unbroken.towers.state_dict().items():
        assert torch.equal(value, resumed.towers.state_dict()[name]), name


def test_photos_of_a_step_are_changed_and_those_of_validation_are_not(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos.zip")
    train, validation = split_photos(read_photos(tmp_path / "photos.zip", tmp_path, 16))
    pairs = PhotoPairs(train, validation)

    def known(photos: Any) -> set[bytes]:
        return {one.tobytes() for one in normalised(photos.images)}

    for step in (0, 1):
        inputs = pairs.batch(3, step, len(train)).inputs
        as_they_are = sum(one.numpy().tobytes() in known(train) for one in inputs)
        assert as_they_are < len(inputs) / 2
    seen = [one for batch in pairs.validation() for one in batch.inputs]
    assert {one.numpy().tobytes() for one in seen} == known(validation)


def test_photos_may_come_several_to_a_picture_and_each_is_judged_by_itself(tmp_path: Path) -> None:
    """Where each stands in the picture, and which of the encoder's tokens are its own."""
    write_photos(tmp_path / "photos.zip")
    train, validation = split_photos(read_photos(tmp_path / "photos.zip", tmp_path, 16))
    pairs = PhotoPairs(train, validation, grids=1.0)
    assert {pairs.batch(3, step, 8).parts for step in range(12)} == {(1, 2), (2, 1), (2, 2)}
    assert {PhotoPairs(train, validation).batch(3, step, 8).parts for step in range(12)} == {(1, 1)}
    assert list(PhotoPairs(train, validation).validations()) == ["accuracy"]
    batch = next(pairs.validations()["grid_accuracy"])
    single = next(pairs.validation())
    first, labels = batch.inputs[0], single.labels
    assert first.shape == (3, 32, 32)
    for place, (down, across) in enumerate(((0, 0), (0, 16), (16, 0), (16, 16))):
        assert torch.equal(first[:, down : down + 16, across : across + 16], single.inputs[place])
    assert batch.labels == labels[: 4 * len(batch.inputs)]

    stem = StemConfig("image", 3, (ConvConfig(8, 4, 4),), 0, 1, 1, 9)
    towers = Towers(StemEncoder(stem, 5), pairs, 5, 6)
    # Tokens by row and column of the picture, each telling where it is.
    rows = torch.arange(64.0)[:, None].expand(-1, 5)
    means = towers.pooled([rows], (2, 2)) / towers.projection.weight.sum(1)
    expected = rows[:, 0].view(8, 8).unfold(0, 4, 4).unfold(1, 4, 4).mean((2, 3)).flatten()
    torch.testing.assert_close(means, expected[:, None].expand(-1, 6))


def test_photos_may_come_large(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos.zip")
    train, validation = split_photos(read_photos(tmp_path / "photos.zip", tmp_path, 16))
    pairs = PhotoPairs(train, validation, grids=0.4, large=0.3)
    made = [pairs.batch(3, step, 8) for step in range(40)]
    large = [one for one in made if one.parts == (1, 1) and one.inputs[0].shape == (3, 32, 32)]
    assert 4 < len(large) < 22
    assert all(len(one.inputs) == len(one.labels) == 2 for one in large)
    assert {one.parts for one in made} == {(1, 1), (1, 2), (2, 1), (2, 2)}
    batches = list(pairs.validations()["large_accuracy"])
    assert sum(len(one.inputs) for one in batches) == -(-len(validation) // 5)
    assert set(pairs.validations()) == {"accuracy", "grid_accuracy", "large_accuracy"}


def test_sounds_of_a_step_are_changed_and_those_of_validation_are_not(tmp_path: Path) -> None:
    write_digits(tmp_path / "digits.zip")
    split = split_digits(read_digits(tmp_path / "digits.zip", AUDIO))
    pairs = DigitPairs(split, AUDIO)

    def known(utterances: Any) -> list[np.ndarray]:
        return [mel_of(one.samples, AUDIO) for one in utterances]

    def among(one: torch.Tensor, others: list[np.ndarray]) -> bool:
        return any(other.shape == tuple(one.shape) and np.array_equal(other, one.numpy()) for other in others)

    inputs = pairs.batch(3, 0, len(split.train)).inputs
    assert sum(among(one, known(split.train)) for one in inputs) < len(inputs) / 2
    (batch,) = pairs.validation()
    assert all(among(one, known(split.validation)) for one in batch.inputs)
