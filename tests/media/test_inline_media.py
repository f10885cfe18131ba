"""Media inside of texts: what is taken for an image, and what stays text."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from ostro.core.errors import InvalidRequestError
from ostro.media.audio_settings import AudioSettings
from ostro.media.image import ImageSettings
from ostro.media.inline import split_inline
from ostro.media.parts import find_sources
from ostro.media.senses import Senses

SENSES = Senses(ImageSettings(16, 256))
HEARING = Senses(None, AudioSettings())
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
        "<image>//server/share of the office, where all pictures of the house are kept</image>",
        "<image>iVBORw0KGgo is what base64 of a PNG begins with, and /9j/ is a JPEG's</image>",
        f"<image>{PLAIN[:40]} {PLAIN[40:]}</image>",
        "<image>data: nothing that could be seen in it</image>",
        "<image>https://a.org/a cat.png</image>",
        f"<audio>{base64.b64encode(b'BM').decode()}</audio>",
    ],
)
def test_words_are_no_base64(words: str) -> None:
    """Or of no known file, or an address, for a sense that the model does not have; or the tags do not match; or they
    are no base64 throughout, and do not begin like a file."""
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
    "image": [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"BM\x8a\x10"],
    "audio": [
        *(b"RIFF\0\0\0\0WAVE", b"fLaC", b"OggS", b"ID3\4"),
        *(bytes([0xFF, second, 0x90]) for second in (0xFB, 0xFA, 0xF3, 0xF2, 0xE3, 0xE2)),
    ],
}
# What makes a whole file's base64 none, and the place of the fault that is told.
FAULTS = {
    "a space": (lambda value: f"{value[:44]} {value[44:]}", "' ' as character 45"),
    "a space for a plus": (lambda value: f"{value[:44]} {value[45:]}", "' ' as character 45"),
    "a corrupt character": (lambda value: f"{value[:50]}!{value[51:]}", "'!' as character 51"),
    "the other alphabet": (lambda value: f"{value[:44]}-_{value[46:]}", "'-' as character 45"),
    "an early end": (lambda value: f"{value[:44]}=={value[46:]}", "character 47"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["image", "audio"])
def test_data_that_is_broken_is_refused(kind: str, fault: str) -> None:
    """An answer to its base64 as a text, or to what is left of it, would be one to nothing that was asked."""
    broken, match = FAULTS[fault]
    for data in FILES[kind]:
        value = broken(base64.b64encode(data + bytes(60)).decode())
        for content, param in (
            (f"what is <{kind}>\n{value} </{kind}>", "messages[0].content"),
            ([text("one"), text(f"<{kind}>{value}</{kind}>")], "messages[0].content[1].text"),
        ):
            for senses, said in ((SENSES, "image"), (HEARING, "audio")):
                message = {"role": "user", "content": content}
                with pytest.raises(InvalidRequestError, match=match if kind == said else "model takes") as raised:
                    find_sources(split_inline([message], senses), senses)
                assert raised.value.param == param
                assert str(raised.value).startswith(f"{param} holds media inline, within <{kind}>")


def test_a_data_url_that_is_broken_is_refused() -> None:
    message = {"role": "user", "content": f"<image>data:image/png;base64,{PLAIN[:40]} {PLAIN[40:]}</image>"}
    with pytest.raises(InvalidRequestError, match="a data URL with whitespace in it") as raised:
        find_sources(split_inline([message], SENSES), SENSES)
    assert raised.value.param == "messages[0].content"


def test_all_of_the_other_alphabet_is_refused_too() -> None:
    """Of an mp3 without a tag the first character is of it."""
    value = base64.urlsafe_b64encode(b"\xff\xfb\x90" + bytes(60)).decode()
    with pytest.raises(InvalidRequestError, match="'_' as character 1,"):
        find_sources(split_inline([{"role": "user", "content": f"<audio>{value}</audio>"}], HEARING), HEARING)


@pytest.mark.parametrize(
    "content",
    [
        "<image>" + " " * 300_000,
        "<image>" * 50_000,
        "<image>" + "iVBORw0KGgo" * 30_000 + " </audio>",
        "<image>" + "A" * 31 + ("!" + "A" * 31) * 10_000 + "</image>",
        "<image>" + "A \n" * 100_000 + "</image>",
    ],
    ids=["spaces", "tags", "unmatched", "runs", "lines"],
)
def test_what_only_begins_as_media_is_read_once(content: str) -> None:
    """A search that goes back would take hours."""
    assert split(content) == content
