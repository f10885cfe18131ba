"""Media inside of texts, between `<image>` or `<audio>` and its end: found, and told from words."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ostro.core.errors import InvalidRequestError
from ostro.media.senses import Senses

# Around base64, a data URL or an address; anything else there stays text, such as words. None of the patterns goes
# back: a text that only begins so, whatever its length, is read once.
_INLINE = re.compile(r"<(image|audio)>([^<]++)</\1>")
# base64 has whitespace where its lines are broken only.
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]++(?:\r?\n[ \t]*+)?+)++={0,2}+")
_ADDRESS = re.compile(r"(?:data:|https?://)\S++")
# Less than this is no image or sound.
_MIN_BASE64 = 32
# What is meant as data though it is none that can be decoded: a data URL by its type, or as much base64 of either
# alphabet as no words have, behind the beginning of a file.
_DATA_URL = re.compile(r"data:\w++/[\w.+-]++[;,]", re.ASCII)
_ENCODED = re.compile(rf"[A-Za-z0-9+/_-]{{{_MIN_BASE64}}}")
_PLAIN_ALPHABET = str.maketrans("-_", "+/")
# How files of images and sounds begin: PNG, JPEG, GIF, BMP, WebP; WAV, FLAC, Ogg, MP3 with a tag or without, which is a
# frame of layer III in any version, with a bit rate that exists.
_BEGINNINGS = re.compile(
    rb"\x89PNG\r\n|\xff\xd8\xff|GIF8|BM|RIFF.{4}(?:WEBP|WAVE)|fLaC|OggS|ID3"
    rb"|\xff[\xe2\xe3\xf2\xf3\xfa\xfb][^\xf0-\xff]",
    re.DOTALL,
)


class SplitMessage(dict[str, Any]):
    """A message with media in place of the texts that held them.

    origins: for each part the field below the content that it was sent in, and whether it is inline there.
    """

    origins: Sequence[tuple[str, bool]]


def split_inline(messages: Sequence[Mapping[str, Any]], senses: Senses) -> list[dict[str, Any]]:
    """Messages whose users' texts hold media inline, with parts in their place; the others as they are."""
    return [_split_message(message, senses) for message in messages]


def refuse_broken(value: str, where: str, modality: str) -> None:
    """Raises InvalidRequestError for what is meant as data within tags, but cannot be decoded. Were it decoded without
    what is odd, such as a space where a plus was, it would be another file."""
    if _is_whole(value):
        return
    if value.startswith("data:"):
        wrong = "a data URL with whitespace in it"
    else:
        found = _BASE64.match(value)
        end = 0 if found is None else found.end()
        wrong = f"base64 with {value[end]!r} as character {end + 1}, which is none of its own or out of place"
    raise InvalidRequestError(
        f"{where} holds media inline, within <{modality}>, that is broken: {wrong}. Send it as it was encoded.",
        param=where,
    )


def _split_message(message: Mapping[str, Any], senses: Senses) -> dict[str, Any]:
    content = message.get("content")
    if message.get("role") != "user":
        return dict(message)
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list):
        return dict(message)
    split: list[Any] = []
    origins: list[tuple[str, bool]] = []
    changed = False
    for number, part in enumerate(parts):
        text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        found = _split_text(text, senses) if isinstance(text, str) else []
        split += found or [part]
        field = "" if isinstance(content, str) else f"[{number}].text" if found else f"[{number}]"
        origins += [(field, bool(found))] * max(1, len(found))
        changed = changed or bool(found)
    if not changed:
        return dict(message)
    done = SplitMessage({**message, "content": split})
    done.origins = origins
    return done


def _is_whole(value: str) -> bool:
    """Whether it is base64, a data URL or an address and nothing else."""
    return (_ADDRESS.fullmatch(value) or _BASE64.fullmatch(value)) is not None


def _is_media(value: str, *, sensed: bool) -> bool:
    """Whether what stands within tags is media, whole or broken, and no text.

    What a model does not sense is a text to it, such as an address in a feed, unless it can be nothing else: then it is
    found, and refused.
    """
    if _is_whole(value):
        return value.startswith("data:") or (
            (":" in value or len(value) >= _MIN_BASE64) and (sensed or _begins_as_file(value))
        )
    return _DATA_URL.match(value) is not None or (_begins_as_file(value) and _ENCODED.search(value) is not None)


def _begins_as_file(value: str) -> bool:
    """Whether it is base64 of a file of a known format, as far as its first characters can be decoded."""
    head = re.split("[^A-Za-z0-9+/]", "".join(value[:64].split()).translate(_PLAIN_ALPHABET), maxsplit=1)[0]
    return _BEGINNINGS.match(base64.b64decode(head[: len(head) // 4 * 4])) is not None


def _split_text(text: str, senses: Senses) -> list[dict[str, Any]]:
    """The parts of a text that holds media; none of one without."""
    parts: list[dict[str, Any]] = []
    at = 0
    for found in _INLINE.finditer(text):
        kind, value = found[1], found[2].strip()
        if not _is_media(value, sensed=(senses.image if kind == "image" else senses.audio) is not None):
            continue
        if before := text[at : found.start()].strip():
            parts.append({"type": "text", "text": before})
        parts.append({"type": "image_url" if kind == "image" else "audio_url", f"{kind}_url": {"url": value}})
        at = found.end()
    if parts and (after := text[at:].strip()):
        parts.append({"type": "text", "text": after})
    return parts
