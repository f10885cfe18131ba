"""Images and sounds that cannot be read, at every door of a live node whose model sees and hears."""

from __future__ import annotations

import asyncio
import base64
import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import soundfile
from nodes import Node
from PIL import Image
from real_nodes import served
from test_series_doors import write_sensing_model

from hearing import RATE, sound
from ostro.core.errors import InvalidRequestError
from ostro.media.image import ImageSettings
from ostro.media.senses import Senses
from ostro.server.media_reading import MediaReader
from ostro.web.fetching import Fetched

TEXT = {"type": "text", "text": "what is it"}
SIDE = 9000  # pixels: more than an image may have, few enough that the header is all that tells
LONGEST_S = 4  # of a sound, for this model


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("refusals") / "senses"
    write_sensing_model(folder)
    small = folder.parent / "small"
    write_sensing_model(small, context=24)
    with served(folder, "--model", f"small={small}") as running:
        yield running


def image_file(kind: str = "PNG", **options: Any) -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(values).save(out, kind, **options)
    return out.getvalue()


def png_bomb() -> bytes:
    """A small file that is a large image once it is unpacked."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 1, 0, 0, 0, 0)  # one bit a pixel
    rows = zlib.compress(bytes(SIDE * (1 + SIDE // 8)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def webp_bomb() -> bytes:
    """Its size is 14 bits each of width and height, less one, behind the signature."""
    data = bytearray(image_file("WEBP", lossless=True))
    at = data.index(b"VP8L") + 9
    data[at : at + 4] = ((SIDE - 1) << 14 | (SIDE - 1)).to_bytes(4, "little")
    return bytes(data)


def sound_file(samples: int, kind: str = "WAV") -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.zeros(samples, dtype=np.float32), RATE, format=kind)
    return out.getvalue()


def plain(data: bytes) -> str:
    return base64.b64encode(data).decode()


def user(*content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


def image_doors(data: bytes, mime: str) -> dict[str, tuple[str, dict[str, Any], str]]:
    """Path, body, and the field that holds the image."""
    url = f"data:{mime};base64,{plain(data)}"
    source = {"type": "base64", "media_type": mime, "data": plain(data)}
    part = {"type": "image_url", "image_url": {"url": url}}
    return {
        "chat": ("/v1/chat/completions", {"messages": user(TEXT, part)}, "messages[0].content[1].image_url.url"),
        "inline": (
            "/v1/chat/completions",
            {"messages": user({"type": "text", "text": f"<image>{plain(data)}</image>what is it"})},
            "messages[0].content[0].text",
        ),
        "responses": (
            "/v1/responses",
            {"input": user({"type": "input_image", "image_url": url})},
            "input[0].content[0].image_url",
        ),
        "messages": (
            "/v1/messages",
            {"max_tokens": 3, "messages": user(TEXT, {"type": "image", "source": source})},
            "messages[0].content[1].source.data",
        ),
        "infer": ("/v1/infer", {"inputs": {"text": "what is it", "image": plain(data)}}, "inputs.image"),
        "infer, bare": ("/v1/infer", {"text": "what is it", "image": plain(data)}, "image"),
        "infer inline": (
            "/v1/infer",
            {"inputs": {"text": f"what is it <image>{url}</image>"}},
            "inputs.text",
        ),
        "embeddings": ("/v1/embeddings", {"input": ["a river", {"image": plain(data)}]}, "input[1].image"),
        "embeddings part": ("/v1/embeddings", {"input": [part]}, "input[0].image_url.url"),
    }


def sound_doors(data: bytes) -> dict[str, tuple[str, dict[str, Any], str]]:
    part = {"type": "input_audio", "input_audio": {"data": plain(data)}}
    return {
        "chat": ("/v1/chat/completions", {"messages": user(TEXT, part)}, "messages[0].content[1].input_audio.data"),
        "inline": (
            "/v1/chat/completions",
            {"messages": user({"type": "text", "text": f"<audio>{plain(data)}</audio>what is it"})},
            "messages[0].content[0].text",
        ),
        "responses": ("/v1/responses", {"input": user(part)}, "input[0].content[0].input_audio.data"),
        "infer": ("/v1/infer", {"inputs": {"text": "what is it", "audio": plain(data)}}, "inputs.audio"),
        "infer, bare": ("/v1/infer", {"text": "what is it", "audio": plain(data)}, "audio"),
        "infer inline": (
            "/v1/infer",
            {"inputs": {"text": f"what is it <audio>{plain(data)}</audio>"}},
            "inputs.text",
        ),
        "embeddings": ("/v1/embeddings", {"input": ["a river", {"audio": plain(data)}]}, "input[1].audio"),
        "embeddings part": ("/v1/embeddings", {"input": [part]}, "input[0].input_audio.data"),
    }


IMAGES: Mapping[str, tuple[bytes, str, str]] = {
    "PNG bomb": (png_bomb(), "image/png", f"too large with {SIDE} × {SIDE} pixels"),
    "WebP bomb": (webp_bomb(), "image/webp", f"too large with {SIDE} × {SIDE} pixels"),
    "half a PNG": (image_file()[: len(image_file()) // 2], "image/png", "damaged or cut short"),
    "a sound": (sound(seconds=0.1), "image/png", "no image that can be read"),
}
SOUNDS: Mapping[str, tuple[bytes, str]] = {
    "no samples": (sound_file(0), "no samples"),
    "too long": (sound_file(RATE * LONGEST_S + 1, "FLAC"), f"up to {LONGEST_S} seconds can be heard"),
    "half a wav": (sound(seconds=0.2)[:3000], "cut off"),
    "an image": (image_file(), "a PNG image"),
}


def check_refused(node: Node, door: tuple[str, dict[str, Any], str], reason: str) -> None:
    path, body, field = door
    answer = node.http.post(path, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert reason in error["message"]
    if path == "/v1/messages":
        assert error["message"].startswith(f"{field}: "), "Anthropic's errors have no place for a field"
    else:
        assert error["param"] == field
    assert node.chat("what is it", max_tokens=1).status_code == 200, "it goes on"


@pytest.mark.parametrize("door", image_doors(b"", ""))
@pytest.mark.parametrize("what", IMAGES)
def test_bad_images_are_400_with_a_reason_and_the_field(node: Node, what: str, door: str) -> None:
    data, mime, reason = IMAGES[what]
    check_refused(node, image_doors(data, mime)[door], reason)


@pytest.mark.parametrize("door", sound_doors(b""))
@pytest.mark.parametrize("what", SOUNDS)
def test_bad_sounds_are_400_with_a_reason_and_the_field(node: Node, what: str, door: str) -> None:
    data, reason = SOUNDS[what]
    check_refused(node, sound_doors(data)[door], reason)


@pytest.mark.parametrize("door", [*image_doors(b"", ""), *sound_doors(b"")])
def test_every_door_takes_what_can_be_read(node: Node, door: str) -> None:
    """So that the refusals are for what is wrong with the bytes."""
    for doors in (image_doors(image_file(), "image/png"), sound_doors(sound(seconds=0.2))):
        if door in doors:
            path, body, _ = doors[door]
            few = {} if path in ("/v1/responses", "/v1/embeddings") else {"max_tokens": 1}
            answer = node.http.post(path, json={**body, **few})
            assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_broken_data_within_a_text_is_400_at_every_door(node: Node, kind: str) -> None:
    """Not taken for words, as it would be by its odd character."""
    value = plain(image_file() if kind == "image" else sound(seconds=0.1))
    inline = f"what is <{kind}>{value[:60]} {value[61:]}</{kind}>"
    for path, body, field in (
        ("/v1/chat/completions", {"messages": user({"type": "text", "text": inline})}, "messages[0].content[0].text"),
        ("/v1/responses", {"input": user(TEXT | {"type": "input_text", "text": inline})}, "input[0].content[0].text"),
        ("/v1/messages", {"messages": [{"role": "user", "content": inline}], "max_tokens": 3}, "messages[0].content"),
        ("/v1/infer", {"inputs": {"text": inline}}, "inputs.text"),
    ):
        answer = node.http.post(path, json=body)
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["message"].startswith(
            f"{field} holds media inline, within <{kind}>, that is broken: base64 with ' '"
        )
        assert error.get("param", field) == field


@pytest.mark.parametrize("door", ["chat", "inline", "inline text", "responses", "messages", "embeddings"])
def test_two_hundred_images_are_too_many(node: Node, door: str) -> None:
    data = image_file()
    if door == "inline text":  # one string, not a list of parts
        path, body = "/v1/chat/completions", {"messages": [{"role": "user", "content": ""}]}
        body["messages"][0]["content"] = f"<image>{plain(data)}</image>" * 200
    elif door == "embeddings":
        path, body = "/v1/embeddings", {"input": [{"image": plain(data)}] * 200}
    else:
        path, body, _ = image_doors(data, "image/png")[door]
        (message,) = body["input" if door == "responses" else "messages"]
        message["content"] = message["content"][-1:] * 200
    answer = node.http.post(path, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert "more than 32 images" in error["message"]
    if door != "messages":
        assert error["code"] == "too_many_media"
        where = "input[0]" if door == "responses" else "messages[0]"
        field = {"inline text": "messages[0].content", "embeddings": "input[32]"}.get(door, f"{where}.content[32]")
        assert error["param"].startswith(field)
    assert node.chat("what is it", max_tokens=1).status_code == 200, "it goes on"


@pytest.mark.parametrize("door", sound_doors(b""))
def test_sounds_longer_than_the_context_are_named_too(node: Node, door: str) -> None:
    path, body, field = sound_doors(sound(seconds=LONGEST_S))[door]
    answer = node.http.post(path, json={**body, "model": "small"})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    # All of a conversation is too long, or the one input.
    text = "text" if field == "audio" else "inputs.text"
    whole = {"/v1/chat/completions": "messages", "/v1/responses": "input", "/v1/infer": text}
    expected = whole.get(path, field.partition(".")[0])
    assert (error["code"], error["param"]) == ("context_length_exceeded", expected)


def test_what_is_sent_is_what_is_named(node: Node) -> None:
    """Media in a text become parts, and Anthropic's system and results of tools messages: neither moves a field."""
    good, bad = plain(image_file()), plain(image_file()[:200])

    def source(data: str) -> dict[str, Any]:
        return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}

    url = f"data:image/png;base64,{bad}"
    part = {"type": "image_url", "image_url": {"url": url}}
    inline = {"type": "text", "text": f"this <image>{good}</image> that"}
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "look", "input": {}}]}
    result = {"type": "tool_result", "tool_use_id": "a", "content": "seen"}
    told = [*user({"type": "text", "text": "look"}), call, *user(result, TEXT, source(bad))]
    texts = [{"type": "text", "text": "be brief"}, {"type": "text", "text": "be kind"}]
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("chat/completions", {"messages": user(inline, part)}, "messages[0].content[1].image_url.url"),
        (
            "chat/completions",
            {"messages": user(inline, {"type": "text", "text": f"x <image>{bad}</image>"})},
            "messages[0].content[1].text",
        ),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": f"{inline['text']} <image>{bad}</image>"}]},
            "messages[0].content",
        ),
        ("infer", {"inputs": {"image": good, "text": f"{inline['text']} <image>{bad}</image>"}}, "inputs.text"),
        (
            "responses",
            {"input": user({**inline, "type": "input_text"}, {"type": "input_image", "image_url": url})},
            "input[0].content[1].image_url",
        ),
        ("messages", {"messages": user(inline, source(bad))}, "messages[0].content[1].source.data"),
        (
            "messages",
            {"messages": user(inline, {"type": "text", "text": f"<image>{bad}</image>"})},
            "messages[0].content[1].text",
        ),
        ("messages", {"messages": user(source(bad)), "system": "be brief"}, "messages[0].content[0].source.data"),
        ("messages", {"messages": told, "system": texts}, "messages[2].content[2].source.data"),
    ]
    for door, body, field in cases:
        few = {"max_tokens": 1} if door == "messages" else {}
        answer = node.http.post(f"/v1/{door}", json={**body, **few})
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["message"].startswith(f"{field}: The image ")
        assert error.get("param", field) == field


class _Fetcher:
    """Gives what it was told to."""

    def __init__(self, data: bytes, declared: str | None) -> None:
        self._fetched = Fetched(data, declared)

    async def fetch(self, _: str) -> Fetched:
        return self._fetched

    async def close(self) -> None: ...


def test_a_fetched_image_is_what_its_content_type_says() -> None:
    """No address of this machine may be fetched, so without a node."""
    messages = [{"role": "user", "content": [TEXT, {"type": "image_url", "image_url": "https://example.org/a.png"}]}]

    def read(data: bytes, declared: str | None, most: int = 1 << 20) -> Any:
        fetcher: Any = _Fetcher(data, declared)
        reader = MediaReader(fetcher, {"image": most})
        return asyncio.run(reader.read(messages, Senses(ImageSettings(8, 64))))[0]["content"][1]["media"]

    data = image_file()
    for declared in ("image/png", "image/png; charset=utf-8", "application/octet-stream", None):
        assert read(data, declared).grid == (2, 2)
    for declared, most, match in (
        ("image/webp", 1 << 20, "declared as 'image/webp' but is PNG"),
        ("text/html", 1 << 20, "declared as 'text/html' but is PNG"),
        ("audio/wav", 1 << 20, "declared as 'audio/wav' but is PNG"),
        ("image/png", len(data) - 1, f"up to {len(data) - 1} are taken"),
    ):
        with pytest.raises(InvalidRequestError, match=match) as raised:
            read(data, declared, most)
        assert raised.value.param == "messages[0].content[1].image_url"
