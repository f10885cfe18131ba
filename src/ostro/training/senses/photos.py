"""Photos of some classes: read from a zip, split, changed in harmless ways, normalised as in serving.

Suffixes: B photos of a batch, H rows, W columns, 3 colours.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from safetensors.numpy import load_file, save_file

from ostro.core.errors import TrainingError
from ostro.media.image import MEAN, STD

Augmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]
_ENDINGS = (".jpg", ".jpeg", ".png")
# Every tenth photo of a class is for validation.
EVERY = 10


@dataclass(frozen=True)
class Photos:
    """images: uint8 [N, side, side, 3]. labels: int64 [N], numbers of `classes`, which are sorted."""

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def side(self) -> int:
        return int(self.images.shape[1])

    def of_class(self, name: str) -> np.ndarray:
        """Numbers of the photos of a class, int64 [K]."""
        return np.nonzero(self.labels == self.classes.index(name))[0]


def read_photos(path: Path, cache: Path | None = None, side: int = 32) -> Photos:
    """A zip of square photos in one folder a class, in the order of their names.

    cache: a folder where the decoded photos are kept, so that a run that goes on need not decode them again.
    Raises TrainingError that names the file in the zip.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = sorted((info for info in archive.infolist() if _is_photo(info)), key=lambda info: info.filename)
            if not infos:
                raise TrainingError(f"{path} holds no photos: expected a folder a class, with .jpg or .png files.")
            names = [PurePosixPath(info.filename).parent.name for info in infos]
            kept = None if cache is None else cache / f"{path.stem}-{_fingerprint(infos, side)}.safetensors"
            if kept is not None and kept.is_file():
                images = load_file(kept)["images"]
            else:
                images = np.stack([_decode(archive, info, path, side) for info in infos])
                if kept is not None:
                    _keep(images, kept)
    except (OSError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{path} cannot be read as a zip: {error}. Give the data folder with --data.") from error
    classes = tuple(sorted(set(names)))
    return Photos(images, np.array([classes.index(name) for name in names], dtype=np.int64), classes)


def split_photos(photos: Photos, every: int = EVERY) -> tuple[Photos, Photos]:
    """(training, validation): the last of every `every` photos of a class is for validation. Photos that occur twice
    stay on one side."""
    held_out = np.zeros(len(photos), dtype=bool)
    for label in range(len(photos.classes)):
        held_out[np.nonzero(photos.labels == label)[0][every - 1 :: every]] = True
    digests = np.array([hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() for image in photos.images])
    train = ~held_out & ~np.isin(digests, digests[held_out])
    if not train.any() or not held_out.any():
        raise TrainingError(f"{len(photos)} photos are too few to hold one of {every} of a class out.")
    parts = [Photos(photos.images[mask], photos.labels[mask], photos.classes) for mask in (train, held_out)]
    return parts[0], parts[1]


def normalised(images_BHW3: np.ndarray) -> np.ndarray:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W], the very numbers that `read_image` gives for an image whose sides are
    whole tokens."""
    table_3V = _normal_table()
    out_B3HW = np.empty((len(images_BHW3), 3, *images_BHW3.shape[1:3]), dtype=np.float32)
    for colour in range(3):
        np.take(table_3V[colour], images_BHW3[..., colour], out=out_B3HW[:, colour])
    return out_B3HW


def enlarged(images_BHW3: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 photos at another, larger size: the middle of that shape, by linear interpolation."""
    have = images_BHW3.shape[1:3]
    zoom = max(height / have[0], width / have[1])
    rows_OI, columns_OI = (_enlarging(*one, zoom) for one in zip(have, (height, width), strict=True))
    x_B3HW = images_BHW3.transpose(0, 3, 1, 2).astype(np.float32)
    out: np.ndarray = (rows_OI @ x_B3HW @ columns_OI.T).round().clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return out


def _enlarging(size: int, wanted: int, zoom: float) -> np.ndarray:
    """A matrix [wanted, size] that interpolates around the middle of a side."""
    at_O = ((np.arange(wanted) - (wanted - 1) / 2) / zoom + (size - 1) / 2).clip(0, size - 1)
    weights_OI: np.ndarray = np.maximum(1 - np.abs(at_O[:, None] - np.arange(size)), 0).astype(np.float32)
    return weights_OI


# Augmentations: uint8 [B, H, W, 3] and a source of randomness -> the same shape, each photo changed by itself.


def crop(images: np.ndarray, generator: np.random.Generator, most: int = 4) -> np.ndarray:
    """Moved by up to `most` pixels each way; what comes in from outside mirrors the edge."""
    count, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode="reflect")
    rows_BH = generator.integers(0, 2 * most + 1, (count, 1)) + np.arange(height)
    columns_BW = generator.integers(0, 2 * most + 1, (count, 1)) + np.arange(width)
    moved: np.ndarray = padded[np.arange(count)[:, None, None], rows_BH[:, :, None], columns_BW[:, None, :]]
    return moved


def flip(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Left and right changed in half of them."""
    flipped = images.copy()
    which = generator.random(len(images)) < 0.5
    flipped[which] = images[which, :, ::-1]
    return flipped


def cutout(images: np.ndarray, generator: np.random.Generator, share: float = 0.5, size: float = 0.4) -> np.ndarray:
    """A grey square of up to `size` of a side in a share of them (DeVries & Taylor 2017, arXiv:1708.04552)."""
    count, height, width, _ = images.shape
    half_B = generator.uniform(0.1, size, (count,)) * height / 2
    half_B[generator.random(count) >= share] = 0
    y_B, x_B = generator.uniform(0, height, (count,)), generator.uniform(0, width, (count,))
    rows_BH = np.abs(np.arange(height) + 0.5 - y_B[:, None]) < half_B[:, None]
    columns_BW = np.abs(np.arange(width) + 0.5 - x_B[:, None]) < half_B[:, None]
    covered: np.ndarray = np.where((rows_BH[:, :, None] & columns_BW[:, None, :])[..., None], np.uint8(128), images)
    return covered


def jitter(images: np.ndarray, generator: np.random.Generator, strength: float = 0.3) -> np.ndarray:
    """Brightness, contrast and saturation, each by a factor of 1 - strength to 1 + strength."""
    brightness_B, contrast_B, colour_B = (
        generator.uniform(1 - strength, 1 + strength, (len(images), 1, 1, 1)).astype(np.float32) for _ in range(3)
    )
    x = images * brightness_B
    grey = x.mean(axis=3, keepdims=True)
    middle = grey.mean(axis=(1, 2), keepdims=True)
    # grey + colour * (x - grey), and that around the middle by the contrast, written as sums of three terms.
    x *= colour_B * contrast_B
    x += (1 - colour_B) * contrast_B * grey + (1 - contrast_B) * middle
    return x.clip(0, 255).round().astype(np.uint8)


def rescale(images: np.ndarray, generator: np.random.Generator, least: float = 0.85, most: float = 1.15) -> np.ndarray:
    """Smaller or larger around the middle, both ways alike, by linear interpolation; what comes in from outside mirrors
    the edge."""
    zoom_B = generator.uniform(least, most, (len(images),))
    x_B3HW = images.transpose(0, 3, 1, 2).astype(np.float32)
    rows_B1HH, columns_B1WW = (_resampling(size, zoom_B)[:, None] for size in images.shape[1:3])
    out_B3HW = rows_B1HH @ x_B3HW @ columns_B1WW.transpose(0, 1, 3, 2)
    out: np.ndarray = out_B3HW.round().clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return out


def _resampling(size: int, zoom_B: np.ndarray) -> np.ndarray:
    """Matrices [B, size, size] that interpolate along one side: each output is made of two inputs."""
    middle = (size - 1) / 2
    at_BO = (np.arange(size) - middle) / zoom_B[:, None] + middle
    at_BO = (size - 1) - np.abs((size - 1) - np.abs(at_BO))
    weights_BOI: np.ndarray = np.maximum(1 - np.abs(at_BO[..., None] - np.arange(size)), 0).astype(np.float32)
    return weights_BOI


AUGMENTATIONS: tuple[Augmentation, ...] = (rescale, crop, flip, jitter, cutout)


def augment(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """All of them, one after the other."""
    if not len(images):
        return images
    for augmentation in AUGMENTATIONS:
        images = augmentation(images, generator)
    return images


def _normal_table() -> np.ndarray:
    """For each colour what each of 256 values becomes, float32 [3, 256]; in the order of operations of serving."""
    values = np.arange(256).astype(np.float32) / np.float32(255.0)
    return (values - np.asarray(MEAN, dtype=np.float32)[:, None]) / np.asarray(STD, dtype=np.float32)[:, None]


def _is_photo(info: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(info.filename)
    return (
        not info.is_dir() and path.suffix.lower() in _ENDINGS and len(path.parts) > 1 and "__MACOSX" not in path.parts
    )


def _decode(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, side: int) -> np.ndarray:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(archive.read(info)), formats=("JPEG", "PNG"))
        if image.size != (side, side):
            raise ValueError(f"it has {image.size[0]} × {image.size[1]} pixels, not {side} × {side}")
        return np.asarray(image.convert("RGB"))
    except Exception as error:  # a broken file makes a decoder raise nearly anything
        raise TrainingError(f"{path}: {info.filename} cannot be read: {error}.") from error


def _fingerprint(infos: list[zipfile.ZipInfo], side: int) -> str:
    state = hashlib.blake2b(str(side).encode(), digest_size=8)
    for info in infos:
        state.update(f"{info.filename}\t{info.CRC}\n".encode())
    return state.hexdigest()


def _keep(images: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({"images": images}, part)
    part.replace(path)
