"""Images from bytes to what Pixtral's encoder takes: read carefully, sized to whole tokens, normalised.

There are two references, which differ: mistral-common, which Mistral's own models are served with (`mistral` here), and
the image processor of transformers, for folders that bring its config and no tokenizer of Mistral's.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ostro.core.errors import InvalidRequestError
from ostro.core.media import Grid, MediaInput

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

MAX_BYTES = 32 * 1024 * 1024
# What an image takes once it is unpacked is decided by this, not by its bytes: 64 million pixels are 256 MB, and as
# much again while one that lies on its side is turned.
MAX_PIXELS = 64_000_000
# JPEG's. A row is the least that is looked at.
MAX_SIDE = 65_535
_FORMATS = {
    "JPEG": ("image/jpeg", "image/jpg", "image/pjpeg"),
    "PNG": ("image/png", "image/x-png"),
    "WEBP": ("image/webp",),
    "GIF": ("image/gif",),
    "BMP": ("image/bmp", "image/x-ms-bmp"),
}
# Declarations that say nothing.
_ANY = ("", "application/octet-stream", "binary/octet-stream", "image/*")
# Of the pictures that CLIP was trained with, which Pixtral's encoder takes over (red, green, blue).
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

# Characters of a declared type that an error repeats.
_SHOWN = 60

Method = Literal["mistral", "transformers"]


@dataclass(frozen=True)
class ImageSettings:
    """How a model wants its images.

    token_side: pixels a side of what one token stands for, a patch or a square of merged ones. max_side: the longest
    side in pixels; larger images are made smaller. method: whose arithmetic.
    """

    token_side: int
    max_side: int
    method: Method = "mistral"

    def grid(self, width: int, height: int) -> Grid:
        """Rows and columns of tokens of an image of so many pixels."""
        ratio = max(height / self.max_side, width / self.max_side)
        if ratio > 1:
            shrink = round if self.method == "mistral" else math.floor
            width, height = max(1, shrink(width / ratio)), max(1, shrink(height / ratio))
        return (height - 1) // self.token_side + 1, (width - 1) // self.token_side + 1


def read_image(data: bytes, settings: ImageSettings, *, declared: str | None = None) -> MediaInput:
    """The encoder's input: float32 [3, height, width]. declared: the MIME type that came with the bytes, if one did.

    Raises InvalidRequestError that says what is wrong with them.
    """
    image = open_image(data, declared=declared)
    grid = settings.grid(*image.size)
    height, width = grid[0] * settings.token_side, grid[1] * settings.token_side
    resize = _as_mistral if settings.method == "mistral" else _as_transformers
    return MediaInput.of("image", resize(image, width, height), grid)


def open_image(data: bytes, *, declared: str | None = None) -> Image.Image:
    """A still image, unpacked and upright. Raises InvalidRequestError."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not data:
        raise InvalidRequestError("The image is empty (0 bytes).")
    if len(data) > MAX_BYTES:
        raise InvalidRequestError(f"The image has {len(data)} bytes; {MAX_BYTES} are the most. Make it smaller.")
    try:
        with warnings.catch_warnings():
            # Sizes are checked below, before anything is unpacked; odd metadata is no reason to refuse an image.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=tuple(_FORMATS))
            _check(image, declared)
            image.load()
            # It is turned before its tags are written back, which can fail for others of them.
            with suppress(Exception):
                ImageOps.exif_transpose(image, in_place=True)
            return image
    except InvalidRequestError:
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(_FORMATS)
        raise InvalidRequestError(
            f"The data is no image that can be read ({len(data)} bytes{_declared_as(declared)}); known formats are "
            f"{known}."
        ) from error
    except Image.DecompressionBombError as error:
        raise _too_large("its size", None) from error
    except Exception as error:  # a broken file makes a decoder raise nearly anything
        raise InvalidRequestError(
            f"The image is damaged or cut short and cannot be read: {str(error)[:120] or type(error).__name__}."
        ) from error


def _check(image: Image.Image, declared: str | None) -> None:
    """What can be told before an image is unpacked."""
    # A phone's photo may hold a second picture, such as one of depths; the first is the photo.
    several = image.format == "MPO"
    kind = "JPEG" if several else image.format or ""
    named = (declared or "").partition(";")[0].strip().lower()
    if named not in _ANY and named not in _FORMATS.get(kind, ()):
        raise InvalidRequestError(
            f"The image was declared as {_shown(declared)} but is {kind}. Send it as {_FORMATS[kind][0]}."
        )
    width, height = image.size
    if width < 1 or height < 1:
        raise InvalidRequestError(f"The image has a size of {width} × {height} pixels.")
    if width * height > MAX_PIXELS:
        raise _too_large(f"{width} × {height} pixels", width * height)
    if max(width, height) > MAX_SIDE:
        raise InvalidRequestError(
            f"The image has {width} × {height} pixels; {MAX_SIDE} a side are the most. Send it in parts."
        )
    # Frames are not counted: a small file may hold a million.
    if not several and getattr(image, "is_animated", False):
        raise InvalidRequestError("The image is an animation; send a still image.")
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise InvalidRequestError(
            f"The image has pixels of type {image.mode}, which have no brightness by themselves; send 8 bits a channel."
        )


def _too_large(what: str, pixels: int | None) -> InvalidRequestError:
    have = "" if pixels is None else f" ({pixels} in all)"
    return InvalidRequestError(
        f"The image is too large with {what}{have}; {MAX_PIXELS} pixels are the most. Make it smaller."
    )


def _declared_as(declared: str | None) -> str:
    return f", declared as {_shown(declared)}" if declared else ""


def _shown(declared: str | None) -> str:
    """No more of it than helps: a data URL may declare megabytes."""
    return repr(declared if declared is None or len(declared) <= _SHOWN else f"{declared[:_SHOWN]}…")


def _as_mistral(image: Image.Image, width: int, height: int) -> np.ndarray:
    """What is transparent is white; cubic interpolation of the nearest 4 × 4 pixels in float32, however much smaller
    the image becomes."""
    import numpy as np
    from PIL import Image

    def rows(start: int, stop: int) -> np.ndarray:
        band = image.crop((0, start, image.width, stop))
        if band.mode != "RGB":
            layered = band.convert("RGBA")
            background = Image.new("RGBA", layered.size, "WHITE")
            background.paste(layered, (0, 0), layered)
            band = background.convert("RGB")
        return np.asarray(band)

    resized_HWC = _resize_cubic(rows, (image.height, image.width), (height, width))
    resized_HWC /= np.float32(255.0)
    resized_HWC -= np.asarray(MEAN, dtype=np.float32)
    resized_HWC /= np.asarray(STD, dtype=np.float32)
    return resized_HWC.transpose(2, 0, 1)


def _as_transformers(image: Image.Image, width: int, height: int) -> np.ndarray:
    """What is transparent is white; Pillow's bicubic filter on 8-bit pixels, which averages over more of them when an
    image becomes smaller."""
    import numpy as np
    from PIL import Image

    if "A" in image.getbands() or image.info.get("transparency") is not None:
        opaque = Image.new("RGB", image.size)
        # Some rows at a time: layers of all of them would be several times the image.
        step = max(1, _BAND_PIXELS // image.width)
        for top in range(0, image.height, step):
            layered = image.crop((0, top, image.width, min(top + step, image.height))).convert("RGBA")
            white = Image.new("RGBA", layered.size, "WHITE")
            opaque.paste(Image.alpha_composite(white, layered).convert("RGB"), (0, top))
        image = opaque
    resized = image.convert("RGB").resize((width, height), resample=Image.Resampling.BICUBIC)
    scaled_CHW = np.asarray(resized).transpose(2, 0, 1) * np.float64(1 / 255)
    normalised = (scaled_CHW.astype(np.float32).transpose(1, 2, 0) - np.array(MEAN, np.float32)) / np.array(
        STD, np.float32
    )
    return normalised.transpose(2, 0, 1)


# Pixels of an image that are looked at at a time, so that memory is bounded by the image's own.
_BAND_PIXELS = 1 << 21


def _resize_cubic(rows: Callable[[int, int], np.ndarray], size: tuple[int, int], wanted: tuple[int, int]) -> np.ndarray:
    """Cubic interpolation (Keys 1981, with a = -0.75) as OpenCV's INTER_CUBIC: 8-bit pixels -> float32
    [height, width, 3]. Pixels beyond the edge are those of the edge.

    rows: gives those from one row to before another, [rows, width, 3]. size, wanted: height and width.
    """
    import numpy as np

    rows_O4, row_weights_O4 = _taps(size[0], wanted[0])
    columns_O4, column_weights_O4 = _taps(size[1], wanted[1])
    out = np.empty((*wanted, 3), dtype=np.float32)
    start = 0
    while start < wanted[0]:
        # As many rows of what is made as a band of the image has room for, one at least.
        first = rows_O4[start, 0]
        stop = int(np.searchsorted(rows_O4[:, 3], first + max(4, _BAND_PIXELS // size[1])))
        stop = min(max(stop, start + 1), wanted[0])
        taps_O4, weights_O4 = rows_O4[start:stop], row_weights_O4[start:stop]
        band_HWC = rows(int(first), int(taps_O4[-1, 3]) + 1)
        if size == wanted:
            out[start:stop] = band_HWC[start - first : stop - first]
            start = stop
            continue
        # Only rows that are looked at: of a large image those are few.
        needed, where = np.unique(taps_O4, return_inverse=True)
        where = where.reshape(taps_O4.shape)
        band_HWC = band_HWC[needed - first]
        across = sum(
            band_HWC[:, columns_O4[:, tap]].astype(np.float32) * column_weights_O4[None, :, tap, None]
            for tap in range(4)
        )
        out[start:stop] = sum(across[where[:, tap]] * weights_O4[:, tap, None, None] for tap in range(4))
        start = stop
    return out


def _taps(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of `wanted` outputs along one side the four inputs that it is made of, and their weights."""
    import numpy as np

    at = ((np.arange(wanted) + 0.5) * (size / wanted) - 0.5).astype(np.float32)
    first = np.floor(at)
    x = at - first
    a = np.float32(-0.75)

    def near(distance: np.ndarray) -> np.ndarray:
        weights: np.ndarray = ((a + 2) * distance - (a + 3)) * distance * distance + 1
        return weights

    outer = ((a * (x + 1) - 5 * a) * (x + 1) + 8 * a) * (x + 1) - 4 * a
    weights_O4 = np.stack([outer, near(x), near(1 - x), 1 - outer - near(x) - near(1 - x)], axis=1)
    taps = first.astype(np.int64)[:, None] + np.arange(-1, 3)
    return taps.clip(0, size - 1), weights_O4.astype(np.float32)
