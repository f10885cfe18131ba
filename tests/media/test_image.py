"""Images as the references prepare them, and what is refused."""

from __future__ import annotations

import base64
import io
import random
import struct
import subprocess
import sys
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_common.protocol.instruct.chunk import ImageChunk
from mistral_common.tokens.tokenizers.image import ImageConfig, ImageEncoder, SpecialImageIDs
from PIL import GifImagePlugin, Image, ImageOps

from ostro.core.errors import InvalidRequestError
from ostro.media import image as media_image
from ostro.media.image import MAX_BYTES, MAX_PIXELS, ImageSettings, Method, open_image, read_image

IMG, BREAK, END = 10, 12, 13
METHODS: tuple[Method, ...] = ("mistral", "transformers")


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    channels = {"RGB": 3, "RGBA": 4, "L": 1, "LA": 2, "CMYK": 4}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values[:, :, 0] if channels == 1 else values, mode if mode != "CMYK" else "CMYK")


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def reference(image: Image.Image, patch: int, merge: int, most: int) -> tuple[np.ndarray, list[int]]:
    encoder = ImageEncoder(ImageConfig(patch, most, merge), SpecialImageIDs(IMG, BREAK, END))
    found = encoder(ImageChunk(image=image))
    return found.image, found.tokens


SIZES = st.integers(1, 400)


@settings(max_examples=60, deadline=None)
@given(width=SIZES, height=SIZES, shape=st.sampled_from([(16, 1, 128), (14, 2, 224), (14, 2, 1540), (4, 1, 64)]))
def test_pixels_and_grid_are_mistral_commons(width: int, height: int, shape: tuple[int, int, int]) -> None:
    patch, merge, most = shape
    image = picture(width, height, seed=width)
    pixels, tokens = reference(image, patch, merge, most)
    ours = read_image(encoded(image), ImageSettings(patch * merge, most))
    laid_out = ([IMG] * ours.grid[1] + [BREAK]) * ours.grid[0]
    laid_out[-1] = END
    assert laid_out == tokens
    # The reference's vector instructions add in another order: half a step of 8 bits is 0.007 here.
    np.testing.assert_allclose(ours.array(), pixels, atol=2e-4)


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "CMYK"])
def test_every_mode_becomes_what_the_reference_makes_of_it(mode: str) -> None:
    image = picture(70, 50, mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    data = encoded(image, kind)
    pixels, _ = reference(Image.open(io.BytesIO(data)), 16, 1, 1024)
    np.testing.assert_allclose(read_image(data, ImageSettings(16, 1024)).array(), pixels, atol=2e-4)


def test_palettes_with_transparency_are_seen_on_white() -> None:
    image = Image.new("P", (20, 20), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    data = encoded(image, "PNG", transparency=0)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[0, 0, 3], 0)
    white = read_image(encoded(Image.new("RGB", (20, 20), "white")), ImageSettings(20, 64))
    np.testing.assert_array_equal(read_image(data, ImageSettings(20, 64)).array(), white.array())


@settings(max_examples=25, deadline=None)
@given(width=SIZES, height=SIZES, most=st.sampled_from([64, 300, 1024]))
def test_pixels_and_grid_are_transformers(width: int, height: int, most: int) -> None:
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    image = picture(width, height, seed=height)
    if min(width, height) * most < max(width, height):
        return  # The reference makes a side of nothing there, and fails.
    processor = PixtralImageProcessorPil(size={"longest_edge": most}, patch_size={"height": 28, "width": 28})
    found = processor.preprocess(image, return_tensors="np")
    ours = read_image(encoded(image), ImageSettings(28, most, "transformers"))
    assert ours.shape == tuple(found["pixel_values"][0].shape)
    np.testing.assert_allclose(ours.array(), found["pixel_values"][0], atol=1e-5)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "P", "RGB with a key", "CMYK"])
def test_transparency_is_transformers(mode: str) -> None:
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    image, options = picture(61, 45), {}
    if mode in ("RGBA", "LA"):
        image.putalpha(picture(61, 45, seed=3).convert("L"))
    if mode == "P":
        image, options = image.quantize(16), {"transparency": 3}
    elif mode == "RGB with a key":
        image = image.quantize(4).convert("RGB")
        options = {"transparency": image.getpixel((5, 5))}
    else:
        image = image.convert(mode)
    data = encoded(image, "JPEG" if mode == "CMYK" else "PNG", **options)
    processor = PixtralImageProcessorPil(size={"longest_edge": 256}, patch_size={"height": 28, "width": 28})
    found = processor.preprocess(Image.open(io.BytesIO(data)), return_tensors="np")
    ours = read_image(data, ImageSettings(28, 256, "transformers"))
    np.testing.assert_allclose(ours.array(), found["pixel_values"][0], atol=1e-5)


def test_every_format_gives_the_same_pixels() -> None:
    image = picture(64, 48)
    plain = open_image(encoded(image, "PNG"), declared="image/png")
    for kind, mime, options in (
        ("BMP", "image/bmp", {}),
        ("WEBP", "image/webp", {"lossless": True}),
        ("PNG", None, {}),
        ("PNG", "application/octet-stream", {}),
        ("PNG", "image/png; charset=binary", {}),
    ):
        found = open_image(encoded(image, kind, **options), declared=mime)
        assert np.array_equal(np.asarray(found.convert("RGB")), np.asarray(plain)), kind
    assert open_image(encoded(image, "JPEG"), declared="image/jpg").size == (64, 48)
    assert open_image(encoded(image, "GIF"), declared="image/gif").size == (64, 48)


def test_a_photograph_taken_sideways_is_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_image(encoded(picture(40, 20), "JPEG", exif=exif)).size == (20, 40)


def test_equal_images_have_equal_digests_and_others_do_not() -> None:
    settings = ImageSettings(16, 1024)
    image = picture(40, 40)
    one, same = read_image(encoded(image, "PNG"), settings), read_image(encoded(image, "BMP"), settings)
    assert one.digest == same.digest
    changed = image.copy()
    changed.putpixel((39, 39), (1, 2, 3))
    assert read_image(encoded(changed), settings).digest != one.digest
    assert (
        read_image(encoded(picture(20, 80)), settings).digest != read_image(encoded(picture(80, 20)), settings).digest
    )


def png_of(width: int, height: int, data: bytes = b"", *, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG with any header and any data, well-formed or not."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def refused(match: str, data: bytes, declared: str | None = None) -> None:
    with pytest.raises(InvalidRequestError, match=match):
        read_image(data, ImageSettings(16, 1024), declared=declared)


def test_what_is_no_image_is_refused() -> None:
    refused("empty", b"")
    refused("no image that can be read", b"hello, this is a text")
    refused("declared as 'image/png'", b"hello", "image/png")
    refused("no image that can be read", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "image/svg+xml")
    refused("no image that can be read", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n")
    refused("declared as 'image/png' but is JPEG", encoded(picture(8, 8), "JPEG"), "image/png")
    refused("declared as 'audio/wav' but is PNG", encoded(picture(8, 8)), "audio/wav")
    refused("16|type I", png_of(4, 4, zlib.compress(bytes(9 * 4)), depth=16, colour=0))
    frames = [picture(8, 8, seed=index) for index in range(3)]
    for kind in ("GIF", "PNG", "WEBP"):
        refused("is an animation", encoded(frames[0], kind, save_all=True, append_images=frames[1:]))


def test_frames_of_an_animation_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame of a GIF takes a dozen bytes, and to count them all is to walk through them."""
    walked = []
    seek = GifImagePlugin.GifImageFile._seek

    def counted(self: Any, frame: int, update_image: bool = True) -> None:
        walked.append(frame)
        seek(self, frame, update_image)

    monkeypatch.setattr(GifImagePlugin.GifImageFile, "_seek", counted)
    frames = [picture(2, 2, seed=index) for index in range(40)]
    refused("is an animation", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert max(walked) == 1


def test_images_that_are_cut_short_or_damaged_are_refused() -> None:
    for kind in ("PNG", "JPEG", "WEBP", "BMP"):
        whole = encoded(picture(64, 64), kind)
        refused("damaged or cut short|no image", whole[: len(whole) // 2])
    damaged = bytearray(encoded(picture(64, 64)))
    rng = random.Random(0)
    for _ in range(200):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            read_image(bytes(damaged), ImageSettings(16, 128))
        except InvalidRequestError:
            continue


def test_bombs_are_refused_before_they_are_unpacked() -> None:
    bomb = png_of(30_000, 30_000, zlib.compress(bytes(1 << 20)))
    tracemalloc.start()
    try:
        refused(f"too large.*{MAX_PIXELS} pixels are the most", bomb)
        refused("too large", png_of(2**31 - 1, 2**31 - 1))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    refused(f"{MAX_BYTES} are the most", bytes(MAX_BYTES + 1))


def test_a_line_of_pixels_is_an_image() -> None:
    """The short side would be rounded to nothing."""
    for method in ("mistral", "transformers"):
        found = read_image(encoded(picture(3000, 1)), ImageSettings(16, 1024, method))
        assert found.grid == (1, 64)
        assert found.whole


def test_large_images_are_looked_at_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which changes no pixel."""
    see_through = picture(90, 70)
    see_through.putalpha(picture(90, 70, seed=3).convert("L"))
    wanted = [
        (ImageSettings(16, side, method), encoded(image))
        for side in (40, 96)
        for method in METHODS
        for image in (see_through, see_through.convert("RGB"), picture(90, 70).quantize(16))
    ]
    whole = [read_image(data, shape).array() for shape, data in wanted]
    for pixels in (1, 90 * 9):
        monkeypatch.setattr(media_image, "_BAND_PIXELS", pixels)
        for (shape, data), expected in zip(wanted, whole, strict=True):
            np.testing.assert_array_equal(read_image(data, shape).array(), expected)


@pytest.mark.parametrize("method", METHODS)
def test_large_images_take_little_more_than_themselves(method: Method) -> None:
    """Layers of all of it would take ten times as much. Pillow's memory is none that Python counts."""
    image = Image.new("P", (8000, 7900), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    data = encoded(image, transparency=0)
    assert len(data) < 100_000
    script = f"""
import base64, resource, sys
from ostro.media.image import ImageSettings, read_image
data = base64.b64decode(sys.stdin.read())
read_image(base64.b64decode("{base64.b64encode(encoded(picture(9, 9))).decode()}"), ImageSettings(14, 64, "{method}"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_image(data, ImageSettings(14, 1540, "{method}"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], input=base64.b64encode(data), capture_output=True, check=True, timeout=60
    )
    # The palette's numbers, and what is resized; the other method has all pixels in colour, too, which Pillow resizes.
    most = 64 + 120 if method == "mistral" else 64 + 256 + 256 + 120
    assert int(done.stdout) / 1000 < most


def test_photos_of_phones_hold_several_pictures_of_which_the_first_is_seen() -> None:
    photo = picture(48, 32)
    data = encoded(photo, "MPO", save_all=True, append_images=[picture(48, 32, seed=9)])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    plain = encoded(photo, "JPEG")
    for declared in ("image/jpeg", None):
        found = read_image(data, ImageSettings(16, 64), declared=declared)
        np.testing.assert_array_equal(found.array(), read_image(plain, ImageSettings(16, 64)).array())
    refused("declared as 'image/png' but is JPEG", data, "image/png")


def test_broken_metadata_are_no_reason_to_refuse_an_image() -> None:
    """Which Pillow writes back when it has turned the image."""
    turned = b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    text_for_a_number = b"\x01)\0\x02\0\0\0\x06\0\0\0&"
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + text_for_a_number + turned + b"\0\xe9\0\0hel\x92E\0"
    data = encoded(picture(40, 20), "JPEG", exif=exif)
    with pytest.raises(struct.error):
        ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert open_image(data).size == (20, 40), "upright"


def test_a_side_has_a_limit_and_errors_are_short() -> None:
    refused("65536 × 1 pixels; 65535 a side", png_of(65_536, 1, zlib.compress(bytes(3 * 65_536 + 1))))
    with pytest.raises(InvalidRequestError) as raised:
        read_image(encoded(picture(8, 8)), ImageSettings(16, 64), declared="x" * 100_000)
    assert len(raised.value.message) < 200
    with pytest.raises(InvalidRequestError) as raised:
        read_image(b"hello", ImageSettings(16, 64), declared="x" * 100_000)
    assert len(raised.value.message) < 250
