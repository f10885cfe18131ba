"""The content of messages: strings, and parts of text, thoughts or media that have been read."""

from __future__ import annotations

from collections.abc import Mapping

from ostro.core.media import MediaInput
from ostro.tokenizer.base import replace_surrogates
from ostro.tokenizer.turns import Part, Role, Thought, indefinite, refusal

# A part that holds a `MediaInput` in place of the bytes or the address that a client sent.
READ_MEDIA = "media"

_MEDIA = {
    "image_url": "image",
    "image": "image",
    "input_image": "image",
    "input_audio": "audio",
    "audio": "audio",
    "audio_url": "audio",
    "input_series": "series",
    "video_url": "video",
    "file": "file",
}


def read_content(where: str, role: Role, content: object) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (replace_surrogates(content),)
    if content is None and role in ("assistant", "tool"):
        return ()
    if not isinstance(content, list | tuple):
        raise refusal(
            f"{where} has content of type {type(content).__name__}; expected a string or text parts.",
            f"{where}.content",
        )
    return tuple(_read_part(f"{where}.content[{index}]", role, part) for index, part in enumerate(content))


def _read_part(where: str, role: Role, part: object) -> Part:
    if not isinstance(part, Mapping):
        raise refusal(f'{where} must be an object such as {{"type": "text", "text": "..."}}.', where)
    kind = part.get("type")
    media = part.get("media") if kind == READ_MEDIA else None
    if isinstance(media, MediaInput):
        if role != "user":
            raise refusal(f"{where} is {indefinite(media.modality)}, which only a user's message may hold.", where)
        return media
    if isinstance(kind, str) and kind in _MEDIA:
        raise refusal(f"{where} is of type '{kind}' ({_MEDIA[kind]}), but this model takes text only.", where)
    if kind == "thinking" and role in ("assistant", "system"):
        return Thought(_thought(where, part.get("thinking")), closed=part.get("closed") is not False)
    if kind == "refusal" and role == "assistant" and isinstance(part.get("refusal"), str):
        return replace_surrogates(part["refusal"])
    if kind != "text":
        raise refusal(f"{where} has type {str(kind)[:40]!r}; this model takes parts of type 'text' only.", where)
    text = part.get("text")
    if not isinstance(text, str):
        raise refusal(f"{where} must have its text as a string in 'text'.", f"{where}.text")
    return replace_surrogates(text)


def _thought(where: str, thinking: object) -> str:
    """Mistral's chunks hold a list of text chunks; a plain string is taken too."""
    if isinstance(thinking, str):
        return replace_surrogates(thinking)
    chunks = thinking if isinstance(thinking, list | tuple) else [None]
    texts = [chunk.get("text") if isinstance(chunk, Mapping) else None for chunk in chunks]
    if not all(isinstance(text, str) for text in texts):
        raise refusal(f"{where}.thinking must be a list of text chunks.", f"{where}.thinking")
    return replace_surrogates("".join(str(text) for text in texts))
