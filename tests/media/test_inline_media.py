"""Media inside of texts: what is taken for an image, and what stays text."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from ostro.media.image import ImageSettings
from ostro.media.parts import split_inline
from ostro.media.senses import Senses

SENSES = Senses(ImageSettings(16, 256))
PLAIN = base64.b64encode(bytes(range(60))).decode()
IMAGE = {"type": "image_url", "image_url": {"url": PLAIN}}


def split(content: Any) -> Any:
    (message,) = split_inline([{"role": "user", "content": content}], SENSES)
    return message["content"]


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def test_an_image_without_a_word_is_one_too() -> None:
    """One part takes the place of one: that their number stays says nothing."""
    assert split(f"<image>{PLAIN}</image>") == [IMAGE]
    assert split([text(f" <image>{PLAIN}</image>\n")]) == [IMAGE]
    assert split([text("first"), text(f"<image> {PLAIN} </image>")]) == [text("first"), IMAGE]


def test_words_around_images_stay_in_order() -> None:
    inline = f"<image>{PLAIN}</image>"
    assert split(f"this {inline} or {inline} that") == [text("this"), IMAGE, text("or"), IMAGE, text("that")]


@pytest.mark.parametrize("broken", [f"{PLAIN[:40]}\n{PLAIN[40:]}", f"\n  {PLAIN[:40]}\r\n  {PLAIN[40:]}\n"])
def test_base64_of_several_lines_is_taken(broken: str) -> None:
    (part,) = split(f"<image>{broken}</image>")
    assert "".join(part["image_url"]["url"].split()) == PLAIN


@pytest.mark.parametrize(
    "words",
    [
        "<image>a cat sitting on the mat in the warm sun today</image>",
        "<image>short</image>",
        f"<audio>{PLAIN}</audio>",
        f"<image>{PLAIN}</audio>",
    ],
)
def test_words_are_no_base64(words: str) -> None:
    """Of four tags the last ones are of a sense that the model does not have, or do not match."""
    assert split(words) == words
    assert split([text(words)]) == [text(words)]
