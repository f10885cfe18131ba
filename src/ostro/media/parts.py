"""Media in the content of messages, in all the ways that clients write them: found, taken out of base64, put back read.

Known are OpenAI's `image_url` and `input_audio`, Mistral's (the same names with plain strings), `audio_url` as other
servers have it, and `input_series`, numbers as they are. Addresses are left to whoever may fetch.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from ostro.core.errors import InvalidRequestError, PromptTooLongError
from ostro.core.media import KINDS, MediaInput
from ostro.media.audio import Sound, read_audio, read_sound
from ostro.media.image import read_image
from ostro.media.inline import SplitMessage, refuse_broken
from ostro.media.senses import Senses
from ostro.media.series import pack_series, series_input, unpack_series

MAX_MEDIA = 32
_PLURALS = {"image": "images", "audio": "sounds", "series": "series"}
_WHITESPACE = b" \t\n\r\v\f"
_PIECE_CHARACTERS = 1 << 16
Place = tuple[int, int]


@dataclass(frozen=True)
class MediaSource:
    """One image, sound or series as it was sent. place: numbers of its message and of its part. where: the field.

    data: its bytes, of a series float64 numbers; None where there is only an address in `url`. declared: the type that
    it is said to be of.
    """

    place: Place
    where: str
    modality: str
    data: bytes | None = None
    url: str | None = None
    declared: str | None = None


def find_sources(messages: Sequence[Mapping[str, Any]], senses: Senses) -> list[MediaSource]:
    """Every image, sound and series of a conversation, in order. messages: as `split_inline` gives them, or as sent.

    Raises InvalidRequestError naming the field that was sent for media that the model does not sense, that are too
    many, or that are no base64.
    """
    sources: list[MediaSource] = []
    for index, message in enumerate(messages):
        content = message.get("content")
        if not isinstance(content, list | tuple):
            continue
        origins = message.origins if isinstance(message, SplitMessage) else None
        for number, part in enumerate(content):
            kind = part.get("type") if isinstance(part, Mapping) else None
            if isinstance(kind, str) and kind in KINDS:
                field, inline = (f"[{number}]", False) if origins is None else origins[number]
                where = f"messages[{index}].content{field}"
                _require_sense(where, kind, senses, inline=inline)
                sources.append(_source(where, (index, number), kind, part, inline=inline))
                if len(sources) > MAX_MEDIA:
                    raise InvalidRequestError(
                        f"The request has more than {MAX_MEDIA} images and sounds, which is the limit. Send fewer.",
                        param=where,
                        code="too_many_media",
                    )
    return sources


def read_source(
    source: MediaSource, data: bytes, declared: str | None, senses: Senses, room: int | None = None
) -> MediaInput:
    """A source's bytes as the model's encoder takes them. room: most tokens of it, where that can be told before it is
    read. Raises InvalidRequestError naming the field, PromptTooLongError."""
    with _named(source):
        if source.modality == "series":
            assert senses.series is not None
            return series_input(unpack_series(data), senses.series)
        if source.modality == "image":
            assert senses.image is not None
            return read_image(data, senses.image, declared=declared)
        assert senses.audio is not None
        return read_audio(data, senses.audio, declared=declared, room=room)


def hear_source(
    source: MediaSource, data: bytes, declared: str | None, senses: Senses, room: int | None = None
) -> Sound:
    """`read_source` for a sound whose length matters."""
    assert senses.audio is not None
    with _named(source):
        return read_sound(data, senses.audio, declared=declared, room=room)


@contextmanager
def _named(source: MediaSource) -> Iterator[None]:
    """What is wrong with a source, told with the field that it came from."""
    try:
        yield
    except PromptTooLongError as error:
        error.param = source.where  # Its message is known to clients as it is.
        raise
    except InvalidRequestError as error:
        error.message = f"{source.where}: {error.message}"
        error.args = (error.message,)
        error.param = source.where
        raise


def put_back(messages: Sequence[Mapping[str, Any]], found: Mapping[Place, MediaInput]) -> list[dict[str, Any]]:
    """Messages with what was read in place of what was sent, as tokenizers take them."""
    done = []
    for index, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, list | tuple):
            content = [
                {"type": "media", "media": found[index, number]} if (index, number) in found else part
                for number, part in enumerate(content)
            ]
        done.append({**message, "content": content})
    return done


def decode_base64(text: str, where: str) -> bytes:
    """Bytes of base64, whitespace in it allowed, padding optional. Raises InvalidRequestError naming the field."""
    try:
        plain = text.encode("ascii").translate(None, _WHITESPACE).rstrip(b"=")
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except (ValueError, binascii.Error) as error:
        raise InvalidRequestError(f"{where} is not valid base64 ({str(error)[:60]}).", param=where) from error


def decode_data_url(url: str, where: str) -> tuple[bytes, str | None]:
    """Bytes of a `data:` URL and the type that it declares. Raises InvalidRequestError naming the field."""
    head, comma, payload = url[5:].partition(",")
    if not comma:
        raise InvalidRequestError(f"{where} is a data URL without a comma: data:image/png;base64,….", param=where)
    fields = [field.strip() for field in head.split(";")]
    declared = fields[0].lower() or None
    if "base64" in (field.lower() for field in fields[1:]):
        return decode_base64(_unescaped(payload).decode("latin-1") if "%" in payload else payload, where), declared
    return _unescaped(payload), declared


def _unescaped(text: str) -> bytes:
    """Percent-escapes as bytes. A piece at a time: the library makes an object of every escape, which of a large text
    takes eighty times its memory."""
    done = bytearray()
    start = 0
    while start < len(text):
        end = start + _PIECE_CHARACTERS
        escape = text.rfind("%", end - 2, end)  # not to be cut
        end = end if escape < 0 else escape
        done += unquote_to_bytes(text[start:end])
        start = end
    return bytes(done)


def _require_sense(where: str, kind: str, senses: Senses, *, inline: bool) -> None:
    modality = KINDS[kind]
    if modality not in senses.names:
        *others, last = ["text", *(_PLURALS[name] for name in senses.names)]
        known = f"{', '.join(others)} and {last}" if others else last
        what = f"holds media inline, within <{modality}>" if inline else f"is of type '{kind}' ({modality})"
        raise InvalidRequestError(
            f"{where} {what}, but this model takes {known if senses else 'text only'}.",
            param=where if inline else f"{where}.type",
            code="unsupported_content",
        )


def _source(where: str, place: Place, kind: str, part: Mapping[str, Any], *, inline: bool) -> MediaSource:
    """inline: it stands within a text, which is all that can be named."""
    modality = KINDS[kind]
    field = kind if kind in part else next((name for name in KINDS if name in part and KINDS[name] == modality), kind)
    value, declared = part.get(field), None
    where = where if inline else f"{where}.{field}"
    if modality == "series":
        return MediaSource(place, where, modality, data=pack_series(value, where))
    if isinstance(value, Mapping):
        inner = next((name for name in ("url", "data") if value.get(name) is not None), "url")
        declared = value.get("format") or value.get("media_type")
        value, where = value.get(inner), where if inline else f"{where}.{inner}"
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequestError(f"{where} must be a data URL or base64, as a string.", param=where)
    if declared is not None and not isinstance(declared, str):
        raise InvalidRequestError(f"{where}: its format must be a string.", param=where)
    value = value.strip()
    if inline:
        refuse_broken(value, where, modality)
    if value[:5].lower() == "data:":
        data, said = decode_data_url(value, where)
        return MediaSource(place, where, modality, data=data, declared=declared or said)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", value):
        return MediaSource(place, where, modality, url=value, declared=declared)
    return MediaSource(place, where, modality, data=decode_base64(value, where), declared=declared)
