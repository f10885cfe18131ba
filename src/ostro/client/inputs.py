"""What a caller gives `infer`, as it goes over the wire."""

from __future__ import annotations

import base64
import binascii
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ostro.core.errors import InvalidRequestError

# In the order in which a model gets them: what is asked comes last.
INPUTS = ("image", "audio", "series", "text")
# What files begin with: (offset, bytes, format).
_SIGNATURES = (
    (0, b"\x89PNG", "png"),
    (0, b"\xff\xd8\xff", "jpeg"),
    (0, b"GIF8", "gif"),
    (8, b"WEBP", "webp"),
    (0, b"BM", "bmp"),
    (8, b"WAVE", "wav"),
    (0, b"fLaC", "flac"),
    (0, b"OggS", "ogg"),
    (0, b"ID3", "mp3"),
    # Frames of layer III, of every version, with and without a checksum.
    *((0, bytes((0xFF, second)), "mp3") for second in (0xE2, 0xE3, 0xF2, 0xF3, 0xFA, 0xFB)),
)


def wire_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """By name: texts, data URLs and base64 as they are; bytes and paths of files in base64; series as lists of numbers.

    Raises InvalidRequestError for unknown names, files that cannot be read, and where nothing is given.
    """
    for name in inputs:
        if name not in INPUTS:
            # Dropped silently, the answer would be to another question.
            raise InvalidRequestError(
                f"inputs['{name}'] was given; known inputs are {', '.join(INPUTS)}.", param=f"inputs.{name}"
            )
    given = {name: _wire(name, inputs[name]) for name in INPUTS if inputs.get(name) is not None}
    if not given:
        raise InvalidRequestError(f"inputs needs one of {', '.join(INPUTS)}.", param="inputs.text")
    return given


def as_content(inputs: Mapping[str, Any]) -> str | list[dict[str, Any]]:
    """The same as a chat message's content, in OpenAI's shape."""
    if list(inputs) == ["text"]:
        return str(inputs["text"])
    parts: list[dict[str, Any]] = []
    for name, value in inputs.items():
        if name == "text":
            parts.append({"type": "text", "text": value})
        elif name == "series":
            parts.append({"type": "input_series", "input_series": value})
        elif name == "image":
            plain = value.startswith(("data:", "http://", "https://"))
            url = value if plain else f"data:image/{_format(name, value)};base64,{value}"
            parts.append({"type": "image_url", "image_url": {"url": url}})
        else:
            data = value.partition(",")[2] if value.startswith("data:") else value
            parts.append({"type": "input_audio", "input_audio": {"data": data, "format": _format(name, data)}})
    return parts


def _wire(name: str, value: Any) -> str | list[float]:
    if name == "series":
        return _numbers(value)
    if name != "text" and isinstance(value, bytes | bytearray | memoryview):
        value = base64.b64encode(value).decode()
    elif name != "text" and isinstance(value, os.PathLike):
        try:
            value = base64.b64encode(Path(value).read_bytes()).decode()
        except OSError as error:
            raise InvalidRequestError(f"inputs['{name}']: {error}.", param=f"inputs.{name}") from error
    if not isinstance(value, str) or not value:
        takes = "a non-empty string" if name == "text" else "base64, a data URL, bytes or the path of a file"
        raise InvalidRequestError(f"inputs['{name}'] must be {takes}.", param=f"inputs.{name}")
    return value


def _numbers(value: Any) -> list[float]:
    """Of any sequence, arrays too, or of `{"values": …}`."""
    value = value.get("values") if isinstance(value, Mapping) else value
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        numbers = [float(one) for one in value]
        if not numbers or not all(map(math.isfinite, numbers)):
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequestError(
            "inputs['series'] must be a list of finite numbers, with at least one of them.", param="inputs.series"
        ) from error
    return numbers


def _format(name: str, encoded: str) -> str:
    """What a file's first bytes say it is. Raises InvalidRequestError where they say nothing."""
    try:
        head = base64.b64decode(encoded[:64])
    except (ValueError, binascii.Error) as error:
        raise InvalidRequestError(f"inputs['{name}'] is not valid base64.", param=f"inputs.{name}") from error
    for offset, signature, kind in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return kind
    raise InvalidRequestError(f"inputs['{name}'] is of no known format.", param=f"inputs.{name}")
