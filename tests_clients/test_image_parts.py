"""Images by the mistralai and anthropic packages, each in its own shape, from a live node whose model sees."""

from __future__ import annotations

import base64
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from mistralai.client import Mistral
from mistralai.client.errors import SDKError
from mistralai.client.models import ImageURL, ImageURLChunk, TextChunk
from nodes import Node

MODEL = "ostro-nano"
ASKED = "what is this"
CLASSES = {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"}
SIDE = 32
GREEDY = {"temperature": 0}  # the anthropic package has no argument for it any more


def picture(seed: int) -> str:
    """A PNG in base64: two colours, one above the other, with some noise."""
    generator = random.Random(seed)
    colours = [[generator.randrange(40, 216) for _ in range(3)] for _ in range(2)]
    rows = b"".join(
        b"\0" + bytes(colours[2 * row // SIDE][at % 3] + generator.randrange(-20, 20) for at in range(3 * SIDE))
        for row in range(SIDE)
    )

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


def url(image: str) -> str:
    return f"data:image/png;base64,{image}"


def block(image: str, media_type: str = "image/png") -> dict[str, Any]:
    """As anthropic's clients send it."""
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": image}}


def user(*parts: Any) -> list[Any]:
    return [{"role": "user", "content": list(parts)}]


TEXT = {"type": "text", "text": ASKED}


@pytest.fixture(scope="module")
def mistral(live: Node) -> Iterator[Mistral]:
    with Mistral(api_key="any", server_url=live.url) as client:
        yield client


@pytest.fixture(scope="module")
def claude(live: Node) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=live.url, api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def expected(live: Node) -> dict[int, tuple[str, int]]:
    """What OpenAI's client is told of each picture, and how many tokens it asked with."""
    found = {}
    with openai.OpenAI(base_url=live.base, api_key="any", max_retries=0) as client:
        for seed in range(6):
            messages: Any = user({"type": "image_url", "image_url": {"url": url(picture(seed))}}, TEXT)
            answer = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_tokens=16)
            assert answer.usage is not None
            found[seed] = (answer.choices[0].message.content or "", answer.usage.prompt_tokens)
    assert {text for text, _ in found.values()} <= CLASSES
    assert len({text for text, _ in found.values()}) > 1, "other pictures, other answers"
    return found


@pytest.mark.parametrize("shape", ["object", "plain", "typed", "typed, plain"])
def test_mistralai_is_told_what_is_seen(mistral: Mistral, expected: dict[int, tuple[str, int]], shape: str) -> None:
    for seed, (text, tokens) in expected.items():
        said = url(picture(seed))
        part: Any = {
            "object": {"type": "image_url", "image_url": {"url": said}},
            "plain": {"type": "image_url", "image_url": said},
            "typed": ImageURLChunk(image_url=ImageURL(url=said)),
            "typed, plain": ImageURLChunk(image_url=said),
        }[shape]
        words: Any = TextChunk(text=ASKED) if shape.startswith("typed") else TEXT
        asked: dict[str, Any] = {"model": MODEL, "messages": user(part, words), "temperature": 0, "max_tokens": 16}
        answer = mistral.chat.complete(**asked)
        assert (answer.choices[0].message.content, answer.usage.prompt_tokens) == (text, tokens)
        streamed = "".join(event.data.choices[0].delta.content or "" for event in mistral.chat.stream(**asked))
        assert streamed == text


def test_anthropic_is_told_what_is_seen(claude: anthropic.Anthropic, expected: dict[int, tuple[str, int]]) -> None:
    for seed, (text, tokens) in expected.items():
        asked: dict[str, Any] = {"model": MODEL, "messages": user(block(picture(seed)), TEXT), "max_tokens": 16}
        answer = claude.messages.create(**asked, extra_body=GREEDY)
        (said,) = answer.content
        assert said.type == "text"
        assert said.text == text
        usage = answer.usage
        assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == tokens
        assert claude.messages.count_tokens(model=MODEL, messages=asked["messages"]).input_tokens == tokens
        with claude.messages.stream(**asked, extra_body=GREEDY) as stream:
            assert "".join(stream.text_stream) == text


def test_images_of_earlier_turns_are_seen_by_both_as_the_same(mistral: Mistral, claude: anthropic.Anthropic) -> None:
    first, second = picture(0), picture(1)
    turns = ({"role": "assistant", "content": "cat"}, "and this")
    ours = [
        *user({"type": "image_url", "image_url": url(first)}, TEXT),
        turns[0],
        *user({"type": "text", "text": turns[1]}, {"type": "image_url", "image_url": url(second)}),
    ]
    theirs = [*user(block(first), TEXT), turns[0], *user({"type": "text", "text": turns[1]}, block(second))]
    of_mistral = mistral.chat.complete(model=MODEL, messages=ours, temperature=0, max_tokens=16)
    of_claude = claude.messages.create(model=MODEL, messages=theirs, max_tokens=16, extra_body=GREEDY)
    (said,) = of_claude.content
    assert said.type == "text"
    assert said.text == of_mistral.choices[0].message.content
    usage = of_claude.usage
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == of_mistral.usage.prompt_tokens


def test_images_that_cannot_be_read_are_refused_in_each_one_s_words(
    mistral: Mistral, claude: anthropic.Anthropic
) -> None:
    broken = picture(0)[:80]
    with pytest.raises(SDKError) as told:
        mistral.chat.complete(model=MODEL, messages=user({"type": "image_url", "image_url": url(broken)}, TEXT))
    assert told.value.status_code == 400
    assert "messages[0].content[0].image_url" in str(told.value.body)
    for part, match in ((block(broken), "source.data"), (block(picture(0), "image/jpeg"), "declared")):
        with pytest.raises(anthropic.BadRequestError, match=match):
            claude.messages.create(model=MODEL, messages=user(part, TEXT), max_tokens=4)
