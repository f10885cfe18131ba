"""The cap on the bytes of one image, on every route that could carry one."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import pytest
from nodes import Node, running_node
from PIL import Image
from real_nodes import served

from ostro.web.images import ImageTooLargeError, refuse_large_images
from seeing import write_seeing_model

LIMIT = 3000


def image_url(size: int) -> str:
    assert size % 3 == 0
    return "data:image/png;base64," + "A" * (size // 3 * 4)


def parts(size: int) -> dict[str, tuple[str, dict[str, Any], str]]:
    """Path, body with an image of that many bytes, and the field that holds it."""
    url, raw = image_url(size), "A" * (size // 3 * 4)

    def user(part: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, part]}]

    source = {"type": "base64", "media_type": "image/png", "data": raw}
    place = "messages[0].content[1]"
    return {
        "openai": (
            "/v1/chat/completions",
            {"messages": user({"type": "image_url", "image_url": {"url": url}})},
            f"{place}.image_url.url",
        ),
        "mistral": (
            "/v1/chat/completions",
            {"messages": user({"type": "image_url", "image_url": url})},
            f"{place}.image_url",
        ),
        "responses": (
            "/v1/responses",
            {"input": user({"type": "input_image", "image_url": url})},
            "input[0].content[1].image_url",
        ),
        "anthropic": (
            "/v1/messages",
            {"max_tokens": 3, "messages": user({"type": "image", "source": source})},
            f"{place}.source.data",
        ),
        "infer": ("/v1/infer", {"inputs": {"text": "What is it?", "image": raw}}, "inputs.image"),
        "infer, bare": ("/v1/infer", {"text": "What is it?", "image": raw}, "image"),
    }


def disguised(data: bytes) -> dict[str, tuple[str, dict[str, Any], str]]:
    """As `parts`, in ways that do not say before they are read that they hold an image; and asking for one token."""
    raw = base64.b64encode(data).decode()
    chat, place = "/v1/chat/completions", "messages[0].content[0]"

    def shape(content: Any, field: str) -> tuple[str, dict[str, Any], str]:
        return chat, {"messages": [{"role": "user", "content": content}], "max_tokens": 1}, field

    def part(value: Any) -> list[dict[str, Any]]:
        return [{"type": "image_url", "image_url": value}]

    embedded = {"input": part({"url": f"data:application/octet-stream;base64,{raw}"})}
    return {
        "base64": shape(part(raw), f"{place}.image_url"),
        "base64 in an object": shape(part({"url": raw}), f"{place}.image_url.url"),
        "scheme in capitals": shape(part({"url": f"DATA:image/png;base64,{raw}"}), f"{place}.image_url.url"),
        "octets": shape(part({"url": f"data:application/octet-stream;base64,{raw}"}), f"{place}.image_url.url"),
        "no type": shape(part(f"data:;base64,{raw}"), f"{place}.image_url"),
        "inline": shape(f"<image>{raw}</image>", "messages[0].content"),
        "inline url": shape(f"<image>data:image/png;base64,{raw}</image>", "messages[0].content"),
        "infer inline": ("/v1/infer", {"inputs": {"text": f"<image>{raw}</image>"}, "max_tokens": 1}, "inputs.text"),
        "embeddings": ("/v1/embeddings", embedded, "input[0].image_url.url"),
        "embeddings base64": ("/v1/embeddings", {"input": part(raw)}, "input[0].image_url"),
    }


def picture(size: int) -> bytes:
    """A PNG of so many bytes; what stands after its end is not looked at."""
    out = io.BytesIO()
    Image.new("L", (28, 28), 90).save(out, "PNG")
    return out.getvalue().ljust(size, b"\0")


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with running_node(max_image_bytes=LIMIT) as running:
        yield running


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("seeing") / "eye"
    write_seeing_model(folder)
    with served(folder, "--max-image", f"{LIMIT}B") as running:
        yield running


@pytest.mark.parametrize("shape", parts(3))
def test_an_image_over_the_limit_is_413_and_names_its_field(node: Node, shape: str) -> None:
    path, body, field = parts(LIMIT + 3)[shape]
    answer = node.http.post(path, json=body)
    assert answer.status_code == 413
    error = answer.json()["error"]
    assert field in error["message"]
    assert str(LIMIT) in error["message"]
    if shape == "anthropic":
        assert error["type"] == "request_too_large"
    else:
        assert error["code"] == "image_too_large"
        assert error["param"] == field


@pytest.mark.parametrize("shape", parts(3))
def test_one_within_it_is_only_refused_for_what_the_model_cannot_do(node: Node, shape: str) -> None:
    path, body, _ = parts(LIMIT)[shape]
    answer = node.http.post(path, json=body)
    assert answer.status_code == 400
    assert "image" in answer.json()["error"]["message"]


@pytest.mark.parametrize("shape", disguised(b""))
def test_an_image_is_held_to_the_limit_however_it_is_sent(seeing: Node, shape: str) -> None:
    for size, status in ((LIMIT, 200), (LIMIT + 1, 413)):
        path, body, field = disguised(picture(size))[shape]
        answer = seeing.http.post(path, json=body)
        assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("image_too_large", field)
    assert field in error["message"]
    assert f"{LIMIT + 1} bytes; up to {LIMIT}" in error["message"]


def test_text_of_that_size_is_no_image(node: Node) -> None:
    text = "x" * 500 + image_url(LIMIT + 3)
    assert node.chat(text, max_tokens=1).status_code in (200, 400)
    assert node.chat(text, max_tokens=1).json().get("error", {}).get("code") != "image_too_large"


def test_what_is_no_json_is_left_to_whoever_reads_it() -> None:
    for body in (b"{", b"[" * 5000, b'"\xff"', b"1" * 50):
        refuse_large_images(body, 1)
    with pytest.raises(ImageTooLargeError, match=r"'a\[1\].url'"):
        refuse_large_images(b'{"a": [0, {"url": "data:image/png;base64,AAAAAAAA"}]}', 5)
    refuse_large_images(b'{"a": [0, {"url": "data:image/png;base64,AAAAAA=="}]}', 5)


def test_the_caps_are_options_of_the_command() -> None:
    with served("ostro-nano", "--max-image", "3000B", "--max-body", "20000B") as node:
        for size, body_size, code in ((3003, 0, "image_too_large"), (3000, 20_000, "request_too_large")):
            path, body, _ = parts(size)["openai"]
            answer = node.http.post(path, json={**body, "user": "x" * body_size})
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == code
