"""Photos are read in order, split without overlap, changed within bounds, and normalised as serving does."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sense_data import photo_array, write_photos

from ostro.core.errors import TrainingError
from ostro.media.image import ImageSettings, read_image
from ostro.training.senses.photos import (
    AUGMENTATIONS,
    Augmentation,
    Photos,
    augment,
    crop,
    cutout,
    enlarged,
    flip,
    jitter,
    normalised,
    read_photos,
    rescale,
    split_photos,
)


def test_a_zip_is_read_in_order_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_photos(tmp_path / "photos.zip")
    photos = read_photos(path, tmp_path / "run", side=16)
    assert photos.classes == ("cat", "dog")
    assert photos.images.shape == (40, 16, 16, 3)
    assert photos.labels.tolist() == [0] * 20 + [1] * 20
    with zipfile.ZipFile(path) as archive:
        third = np.asarray(Image.open(io.BytesIO(archive.read("cat/0002.jpg"))))
    np.testing.assert_array_equal(photos.images[2], third)
    with monkeypatch.context() as patch:
        patch.setattr("ostro.training.senses.photos._decode", lambda *_: pytest.fail("decoded again"))
        np.testing.assert_array_equal(read_photos(path, tmp_path / "run", side=16).images, photos.images)
    write_photos(path, each=10)
    assert len(read_photos(path, tmp_path / "run", side=16)) == 20, "what is kept is not that of another zip"


def test_bad_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    with pytest.raises(TrainingError, match="--data"):
        read_photos(path)
    path.write_bytes(b"no zip")
    with pytest.raises(TrainingError, match="cannot be read as a zip"):
        read_photos(path)
    with pytest.raises(TrainingError, match=r"cat/0000.jpg .* 16 × 16 pixels, not 32"):
        read_photos(write_photos(tmp_path / "small.zip"))
    for name, match in (("cat/x.jpg", "cat/x.jpg cannot be read"), ("x.jpg", "folder a class")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, b"no photo")
        with pytest.raises(TrainingError, match=match):
            read_photos(path)


def test_the_split_is_by_class_and_never_overlaps() -> None:
    images = np.stack([photo_array(i, 8) for i in range(60)])
    images[3] = images[9]  # One of the photos that are held out is there twice.
    photos = Photos(images, np.arange(60) % 3, ("a", "b", "c"))
    train, validation = split_photos(photos)
    assert [np.sum(validation.labels == label) for label in range(3)] == [2, 2, 2]
    seen = {image.tobytes() for image in train.images}
    assert seen.isdisjoint(image.tobytes() for image in validation.images)
    assert len(train) + len(validation) == 60
    images[3] = images[27]  # The tenth of the first class.
    assert len(split_photos(Photos(images, photos.labels, photos.classes))[0]) == 53
    with pytest.raises(TrainingError, match="too few"):
        split_photos(Photos(images[:5], np.zeros(5, dtype=int), ("a",)))


def test_photos_are_normalised_as_serving_normalises_them() -> None:
    images = np.stack([photo_array(i, 32) for i in range(3)])
    for image, ours in zip(images, normalised(images), strict=True):
        out = io.BytesIO()
        Image.fromarray(image).save(out, "PNG")
        np.testing.assert_array_equal(ours, read_image(out.getvalue(), ImageSettings(8, 64)).array())


@pytest.mark.parametrize("augmentation", [*AUGMENTATIONS, augment])
def test_augmentations_are_pure_and_bounded(augmentation: Augmentation) -> None:
    images = np.stack([photo_array(i) for i in range(30)])
    before = images.copy()
    first, second = (augmentation(images, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(first, second)
    assert first.shape == images.shape
    assert first.dtype == np.uint8
    assert (first != images).any()
    assert (augmentation(images, np.random.default_rng(6)) != first).any()
    assert not len(augmentation(images[:0], np.random.default_rng(0)))


def test_flips_and_crops_move_pixels_and_change_none() -> None:
    images = np.stack([photo_array(i) for i in range(40)])
    flipped = flip(images, np.random.default_rng(0))
    which = [(new == old[:, ::-1]).all() for new, old in zip(flipped, images, strict=True)]
    same = [(new == old).all() for new, old in zip(flipped, images, strict=True)]
    assert all(a != b for a, b in zip(which, same, strict=True))
    assert 8 < sum(which) < 32
    for new, old in zip(crop(images, np.random.default_rng(0), most=2), images, strict=True):
        padded = np.pad(old, ((2, 2), (2, 2), (0, 0)), mode="reflect")
        places = [(y, x) for y in range(5) for x in range(5) if (padded[y : y + 16, x : x + 16] == new).all()]
        assert places


def test_cutouts_cover_a_square_in_a_share_of_them() -> None:
    images = np.stack([photo_array(i) for i in range(200)])
    covered = (cutout(images, np.random.default_rng(0), share=0.5, size=0.4) != images).any(axis=3)
    shares = covered.mean(axis=(1, 2))
    assert 60 < (shares > 0).sum() < 140
    assert shares.max() <= 0.25, "eight pixels a side at most, of sixteen"
    for mask in covered[shares > 0.02]:
        rows, columns = np.nonzero(mask)
        assert mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].mean() > 0.9


def test_jitter_keeps_grey_grey_and_rescaling_keeps_the_mean() -> None:
    grey = np.repeat(np.stack([photo_array(i)[..., :1] for i in range(20)]), 3, axis=3)
    changed = jitter(grey, np.random.default_rng(0)).astype(int)
    assert np.ptp(changed, axis=3).max() <= 1
    factors = changed.mean(axis=(1, 2, 3)) / grey.mean(axis=(1, 2, 3))
    assert (factors > 0.6).all()
    assert (factors < 1.4).all()
    smooth = np.stack([np.linspace(0, 255, 16)[:, None, None] * np.ones((1, 16, 3))] * 20).astype(np.uint8)
    scaled = rescale(smooth, np.random.default_rng(0)).astype(int)
    assert np.abs(scaled - smooth).max() <= 255 * 0.15 * 0.6
    np.testing.assert_array_equal(rescale(smooth, np.random.default_rng(0), 1.0, 1.0), smooth)


def test_enlarged_photos_are_the_middle_by_linear_interpolation() -> None:
    """As PyTorch interpolates, cut to the shape."""
    images = np.stack([photo_array(seed, 16) for seed in range(3)])
    found = enlarged(images, 64, 40)
    assert found.shape == (3, 64, 40, 3)
    assert found.dtype == np.uint8
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    whole = torch.nn.functional.interpolate(x, size=(64, 64), mode="bilinear", align_corners=False)
    expected = whole[..., 12:52].permute(0, 2, 3, 1).numpy()
    assert np.abs(found.astype(float) - expected).max() <= 0.51
    assert np.array_equal(enlarged(images, 16, 16), images)
