"""Media inside of texts: what is taken for an image, and what stays text."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from ostro.core.errors import InvalidRequestError
from ostro.media.image import ImageSettings
from ostro.media.parts import find_sources, split_inline
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
        "<audio>https://a.org/feed.mp3</audio>",
        f"<image>{PLAIN}</audio>",
    ],
)
def test_words_are_no_base64(words: str) -> None:
    """Or of no known file, or an address, for a sense that the model does not have; or the tags do not match."""
    assert split(words) == words
    assert split([text(words)]) == [text(words)]


@pytest.mark.parametrize("kind", ["image", "audio"])
@pytest.mark.parametrize("as_url", [False, True])
def test_what_can_only_be_media_is_refused_where_it_is_not_sensed(kind: str, as_url: bool) -> None:
    """Answering its base64 as a text would be an answer to nothing that was asked."""
    for data in FILES[kind]:
        value = base64.b64encode(data + bytes(60)).decode()
        value = f"data:{kind}/any;base64,{value}" if as_url else value
        message = {"role": "user", "content": [text("one"), text(f"<{kind}>{value}</{kind}> what is it")]}
        for senses, known in ((Senses(), "text only"), (SENSES, "text and images")):
            if kind in senses.names:
                continue
            with pytest.raises(InvalidRequestError, match=f"media inline, within <{kind}>.* takes {known}") as raised:
                find_sources(split_inline([message], senses), senses)
            assert raised.value.param == "messages[0].content[1].text"


FILES = {
    "image": [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\0\0\0\0WEBP"],
    "audio": [b"RIFF\0\0\0\0WAVE", b"fLaC", b"OggS", b"ID3\4", b"\xff\xfb\x90"],
}
