"""The size of images in requests, looked at before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ostro.core.errors import InvalidRequestError

MAX_IMAGE_BYTES = 10 * 1024 * 1024
# What holds an image in base64: OpenAI's and Mistral's data URLs, Anthropic's sources, the inputs of /v1/infer.
_FIELDS = frozenset({"url", "image_url", "image", "data"})


class ImageTooLargeError(InvalidRequestError):
    """An image of more bytes than the server takes."""

    status = 413
    code = "image_too_large"


def refuse_large_images(body: bytes, limit: int) -> None:
    """Raises ImageTooLargeError, naming the field, for an image in the JSON body of more than `limit` bytes.

    Free for bodies that are no larger themselves. What is no JSON is left for whoever validates it.
    """
    if len(body) <= limit:
        return
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    for path, text in _images(decoded):
        size = _bytes_of(text)
        if size > limit:
            raise ImageTooLargeError(
                f"'{path}' holds an image of {size} bytes, which is over the limit of {limit}. Scale it down.",
                param=path,
            )


def _images(decoded: object) -> Iterator[tuple[str, str]]:
    """Where images are, and what stands there."""
    waiting: list[tuple[str, object]] = [("", decoded)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, list):
            waiting += ((f"{path}[{index}]", item) for index, item in enumerate(value))
        elif isinstance(value, dict):
            for key, item in value.items():
                inner = f"{path}.{key}" if path else str(key)
                if not isinstance(item, str):
                    waiting.append((inner, item))
                elif key in _FIELDS and _is_image(item, value):
                    yield inner, item


def _is_image(text: str, around: dict[str, object]) -> bool:
    if text.startswith("data:"):
        return text[5:11].lower() == "image/"
    return "image" in around or str(around.get("media_type", "")).startswith("image/")


def _bytes_of(text: str) -> int:
    """The image's bytes, from the length of its base64."""
    payload = text.partition(",")[2] if text.startswith("data:") else text
    return len(payload.rstrip("=")) * 3 // 4
