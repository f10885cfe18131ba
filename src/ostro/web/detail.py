"""OpenAI's `detail` of images, in its two places."""

from __future__ import annotations


def asks_for_detail(content: object) -> bool:
    """Whether a part of a message's content asks for an image in OpenAI's `detail`, which changes nothing here: an
    image has the resolution that the model's own rule gives it."""
    for part in content if isinstance(content, list) else ():
        shown = getattr(part, "image_url", None)
        given = getattr(part, "detail", None) or (shown.get("detail") if isinstance(shown, dict) else None)
        if given not in (None, "auto"):
            return True
    return False
