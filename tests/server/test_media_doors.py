"""Images through every API of a live node that serves a model which sees, a tiny random one."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from nodes import Node
from PIL import Image
from real_nodes import served

from ostro.core.sampling import SamplingParams
from ostro.engine.llm import LLM
from seeing import write_seeing_model

SIDE = 28  # pixels of a token: 14 a patch, 2 × 2 merged
ASKED = "what is seen"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeing") / "eye"
    write_seeing_model(folder)
    return folder


@pytest.fixture(scope="module")
def node(folder: Path) -> Iterator[Node]:
    with served(folder) as running:
        yield running


def picture(seed: int = 0, width: int = 100, height: int = 60, kind: str = "PNG") -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(values).save(out, kind)
    return out.getvalue()


def plain(data: bytes) -> str:
    return base64.b64encode(data).decode()


def url(data: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{plain(data)}"


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def image_part(data: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url(data)}}


TEXT = {"type": "text", "text": ASKED}


@pytest.fixture(scope="module")
def expected(folder: Path) -> Callable[[int], tuple[str, int]]:
    """What the model says of a picture, and how many tokens it was asked with, in this process."""
    llm = LLM(folder, threads=1)

    def answer(seed: int) -> tuple[str, int]:
        messages = user(image_part(picture(seed)), TEXT)
        (output,) = llm.chat(messages, SamplingParams(temperature=0, max_tokens=12))
        return output.text, output.usage.prompt_tokens

    return answer


def shapes(data: bytes) -> dict[str, tuple[str, dict[str, Any]]]:
    """The same question about the same picture in every API."""
    source = {"type": "base64", "media_type": "image/png", "data": plain(data)}
    chat, options = "/v1/chat/completions", {"temperature": 0, "max_tokens": 12}
    ask = {"type": "input_text", "text": ASKED}
    return {
        "openai": (chat, {"messages": user(image_part(data), TEXT), **options}),
        "mistral": (chat, {"messages": user({"type": "image_url", "image_url": url(data)}, TEXT), **options}),
        "inline": (
            chat,
            {"messages": [{"role": "user", "content": f"<image>{plain(data)}</image>{ASKED}"}], **options},
        ),
        "inline url": (
            chat,
            {"messages": user({"type": "text", "text": f"<image>{url(data)}</image> {ASKED}"}), **options},
        ),
        "responses": (
            "/v1/responses",
            {
                "input": user({"type": "input_image", "image_url": url(data)}, ask),
                "temperature": 0,
                "max_output_tokens": 16,
            },
        ),
        "anthropic": ("/v1/messages", {"messages": user({"type": "image", "source": source}, TEXT), **options}),
        "infer": ("/v1/infer", {"inputs": {"text": ASKED, "image": plain(data)}, **options}),
        "infer, bare": ("/v1/infer", {"text": ASKED, "image": plain(data), **options}),
        "infer inline": ("/v1/infer", {"inputs": {"text": f"<image>{plain(data)}</image> {ASKED}"}, **options}),
    }


def said(body: dict[str, Any]) -> str:
    if "choices" in body:
        return str(body["choices"][0]["message"]["content"])
    if "output" in body:
        return "".join(part["text"] for item in body["output"] for part in item["content"])
    if "content" in body:
        return "".join(block["text"] for block in body["content"])
    return str(body["text"])


@pytest.mark.parametrize("shape", shapes(b""))
def test_every_api_shows_the_model_the_same_picture(
    node: Node, expected: Callable[[int], tuple[str, int]], shape: str
) -> None:
    texts = set()
    for seed in (0, 1):
        path, body = shapes(picture(seed))[shape]
        answer = node.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        text, tokens = expected(seed)
        assert said(answer.json()).startswith(text)
        usage = answer.json()["usage"]
        assert (
            usage.get("prompt_tokens", usage.get("input_tokens", 0) + usage.get("cache_read_input_tokens", 0)) == tokens
        )
        texts.add(text)
    assert len(texts) == 2, "other pictures, other answers"


def test_tokens_are_those_of_the_grid(node: Node) -> None:
    def count(*parts: Any) -> int:
        return int(node.http.post("/tokenize", json={"messages": user(*parts)}).json()["count"])

    text = count(TEXT)
    for width, height, rows, columns in ((100, 60, 3, 4), (28, 28, 1, 1), (29, 28, 1, 2), (112, 1, 1, 4)):
        data = picture(0, width, height)
        assert count(image_part(data), TEXT) - text == rows * (columns + 1)
    both = count(image_part(picture(0, 28, 28)), TEXT, image_part(picture(0, 56, 28)))
    assert both - text == 2 + 3, "several images of different sizes"


def test_conversations_hold_several_images_and_stream(node: Node) -> None:
    one, two = picture(1), picture(2, 40, 90, "JPEG")
    messages = [
        *user(TEXT, image_part(one)),
        {"role": "assistant", "content": "a river"},
        *user({"type": "image_url", "image_url": {"url": url(two, "image/jpeg")}}, image_part(one), TEXT),
    ]
    client = openai.OpenAI(base_url=f"{node.url}/v1", api_key="none")
    options: dict[str, Any] = {"model": "eye", "messages": messages, "temperature": 0, "max_tokens": 12}
    whole = client.chat.completions.create(**options)
    streamed = "".join(
        chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(stream=True, **options)
    )
    assert streamed == whole.choices[0].message.content
    several = client.chat.completions.create(n=3, **options)
    assert {choice.message.content for choice in several.choices} == {streamed}


def test_an_image_is_encoded_once(node: Node) -> None:
    def counted() -> tuple[float, float]:
        return node.metric("vllm:mm_cache_queries_total"), node.metric("vllm:mm_cache_hits_total")

    body = {"messages": user(image_part(picture(77)), TEXT), "max_tokens": 1}
    before = counted()
    for question in ("what is seen", "what river", "what bridge"):
        body["messages"] = user({"type": "text", "text": question}, image_part(picture(77)), TEXT)
        assert node.http.post("/v1/chat/completions", json=body).status_code == 200
    after = counted()
    assert (after[0] - before[0], after[1] - before[1]) == (3, 2)


def test_what_a_model_senses_is_told(node: Node) -> None:
    capabilities = node.http.get("/v1/models/eye").json()["capabilities"]
    assert (capabilities["vision"], capabilities["audio"]) == (True, False)


def bad(match: str, *parts: Any) -> Any:
    return pytest.param(match, parts, id=match)


def ill(text: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": text}}


REFUSED = [
    bad("cut short", ill(url(picture()[:300]))),
    bad("declared as 'image/jpeg' but is PNG", ill(url(picture(), "image/jpeg"))),
    bad("declared as 'audio/wav' but is PNG", ill(url(picture(), "audio/wav"))),
    bad("no image that can be read", ill(url(b"hello world", "image/png"))),
    bad("not valid base64", ill("data:image/png;base64,@@@@")),
    bad("without a comma", ill("data:image/png;base64")),
    bad("must be a data URL", {"type": "image_url", "image_url": {}}),
    bad("must be a data URL", {"type": "image_url", "image_url": {"url": 3}}),
    bad("more than 32 images", *[ill(url(picture(0, 8, 8)))] * 200),
    bad("takes text and images", {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
    bad("takes text and images", {"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}}),
    bad("allow-media-from", ill("https://example.org/a.png")),
    bad("fetches nothing", ill("file:///etc/passwd")),
    bad("fetches nothing", ill("ftp://example.org/a.png")),
    bad("tokens", *[ill(url(picture(0, 112, 112)))] * 30),
]


@pytest.mark.parametrize(("match", "parts"), REFUSED)
def test_bad_images_are_400_with_a_reason(node: Node, match: str, parts: tuple[Any, ...]) -> None:
    answer = node.http.post("/v1/chat/completions", json={"messages": user(*parts, TEXT), "max_tokens": 4})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert match in error["message"]
    assert str(error["param"]).startswith("messages")
    assert "/etc" not in error["message"] or "passwd" in str(parts), "nothing of the server's own is told"


def test_an_image_where_none_belongs_is_refused(node: Node) -> None:
    for role in ("system", "assistant"):
        messages = [{"role": role, "content": [image_part(picture())]}, *user(TEXT)]
        answer = node.http.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 4})
        assert answer.status_code == 400
        assert "only a user's message may hold" in answer.json()["error"]["message"]


def test_text_that_only_looks_like_an_image_stays_text(node: Node) -> None:
    for text in ("<image>a river</image>", "<image></image>", "what is an <image> tag", "</image>"):
        answer = node.chat(text, max_tokens=1)
        assert answer.status_code == 200
        assert answer.json()["usage"]["prompt_tokens"] > 3


def test_infer_names_its_own_inputs(node: Node) -> None:
    for inputs, match, param in (
        ({"image": "@@@"}, "not valid base64", "inputs.image"),
        (
            {"text": ASKED, "image": plain(b"no image at all, but some text")},
            "no image that can be read",
            "inputs.image",
        ),
        ({"text": ASKED, "audio": plain(b"RIFF")}, "takes text and images", "inputs.audio"),
        ({"video": "x"}, "known inputs are image, audio, series, text", "inputs.video"),
        ({"image": 3}, "non-empty string", "inputs.image"),
        ({}, "needs one of", "inputs.text"),
    ):
        answer = node.http.post("/v1/infer", json={"inputs": inputs})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert match in error["message"]
        assert error["param"] == param


def test_the_client_sends_files_and_bytes(
    node: Node, tmp_path: Path, expected: Callable[[int], tuple[str, int]]
) -> None:
    from ostro import Client
    from ostro.core.errors import InvalidRequestError

    file = tmp_path / "a.png"
    file.write_bytes(picture(0))
    with Client(api_key="none", endpoint=node.url) as client:
        for image in (file, picture(0), plain(picture(0)), url(picture(0))):
            result = client.infer({"text": ASKED, "image": image}, max_tokens=12)
            assert result.text == expected(0)[0]
        with pytest.raises(InvalidRequestError, match="known inputs"):
            client.infer({"video": b"x"})
        with pytest.raises(InvalidRequestError, match="No such file"):
            client.infer({"image": tmp_path / "none.png"})


def test_the_detail_of_an_image_is_named_where_it_asks_for_something(node: Node) -> None:
    data = picture(1)
    for detail, named in (("low", True), ("auto", False), (None, False)):
        told = {} if detail is None else {"detail": detail}
        chat = {"messages": user({"type": "image_url", "image_url": {"url": url(data), **told}}), "max_tokens": 1}
        seen = {"input": user({"type": "input_image", "image_url": url(data), **told}), "max_output_tokens": 16}
        for path, body, field in (
            ("/v1/chat/completions", chat, "image_url.detail"),
            ("/v1/responses", seen, "input_image.detail"),
        ):
            answer = node.http.post(path, json=body)
            assert answer.status_code == 200, answer.text
            assert answer.headers.get("x-ostro-ignored") == (field if named else None)
