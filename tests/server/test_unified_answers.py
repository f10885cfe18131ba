"""What a model of the unified architecture tells beside its text, through HTTP: labels and routing. It is random."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from nodes import Node
from PIL import Image
from real_nodes import served

from ostro import Client
from ostro.core.sampling import SamplingParams
from ostro.engine.llm import LLM
from ostro.tokenizer import load_tokenizer
from tiny_unified import write_unified_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unified") / "one"
    write_unified_model(folder)
    return folder


@pytest.fixture(scope="module")
def node(folder: Path) -> Iterator[Node]:
    with served(folder) as running:
        yield running


@pytest.fixture
def client(node: Node) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{node.url}/v1", api_key="none") as client:
        yield client


def picture() -> str:
    values = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(values).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def content() -> list[dict[str, Any]]:
    url = f"data:image/png;base64,{picture()}"
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what is seen"}]


def check_labels(labels: list[dict[str, Any]]) -> None:
    assert {one["label"] for one in labels} == {"cat", "dog", "ship"}
    assert {one["group"] for one in labels} == {"photo"}
    scores = [one["score"] for one in labels]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1.0, abs=1e-3)


def test_infer_tells_labels_with_probabilities(node: Node) -> None:
    for inputs in ({"text": "what is seen"}, {"text": "what is seen", "image": picture()}):
        body = node.http.post("/v1/infer", json={"inputs": inputs, "max_tokens": 4}).json()
        check_labels(body["labels"])
        assert "routing" not in body
    with Client(api_key="none", endpoint=node.url) as client:
        result = client.infer({"text": "what is seen", "image": picture()}, max_tokens=4)
    assert [one.label for one in result.labels] == [one["label"] for one in body["labels"]]
    assert [one.score for one in result.labels] == pytest.approx([one["score"] for one in body["labels"]], abs=1e-4)


def test_text_and_labels_come_from_one_pass(node: Node, folder: Path) -> None:
    """One prompt, read once: the engine counts it so."""
    before = node.metric("vllm:prompt_tokens_total")
    body = node.http.post("/v1/infer", json={"inputs": {"text": "what river is wide"}, "max_tokens": 4}).json()
    assert node.metric("vllm:prompt_tokens_total") - before == body["usage"]["prompt_tokens"]
    (output,) = LLM(folder, threads=1).chat(
        [{"role": "user", "content": "what river is wide"}], SamplingParams(temperature=0, max_tokens=4)
    )
    assert output.text == body["text"]
    assert [one.label for one in output.labels] == [one["label"] for one in body["labels"]]


def test_chat_tells_labels_whole_and_streamed(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "one", "messages": [{"role": "user", "content": content()}], "max_tokens": 6}
    whole = client.chat.completions.create(**options).model_dump()
    check_labels(whole["labels"])
    chunks = [chunk.model_dump() for chunk in client.chat.completions.create(stream=True, **options)]
    told = [chunk["labels"] for chunk in chunks if chunk.get("labels")]
    assert told == [whole["labels"]]
    several = [chunk.model_dump() for chunk in client.chat.completions.create(stream=True, n=2, **options)]
    assert len([chunk for chunk in several if chunk.get("labels")]) == 1


def test_routing_can_be_looked_at(node: Node) -> None:
    def routing(**inputs: str) -> dict[str, Any]:
        asked = {"inputs": {"text": "what is seen", **inputs}, "max_tokens": 2, "return_routing": True}
        found: dict[str, Any] = node.http.post("/v1/infer", json=asked).json()["routing"]
        return found

    for _ in range(2):  # the second time the prompt is in the cache, and is read whole all the same
        seen = routing(image=picture())
        assert seen["senses"] == ["text", "image"]
        assert np.array(seen["layers"]).shape == (3, 2, 2)
        assert (np.array(seen["layers"]) > 0).all()
        assert not np.allclose(seen["layers"], 1.0)
    assert routing()["senses"] == ["text"]


def test_embeddings_are_of_the_shared_space(node: Node, folder: Path) -> None:
    """Texts and images side by side, in every way of writing them."""
    url = f"data:image/png;base64,{picture()}"
    given = [
        "a river",
        {"image": picture()},
        content()[0],
        {"text": "a river"},
        {"type": "image_url", "image_url": url},
    ]
    answer = node.http.post("/v1/embeddings", json={"input": given}).json()
    vectors = np.array([item["embedding"] for item in answer["data"]])
    assert vectors.shape == (5, 24)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[[0, 1, 1]], vectors[[3, 2, 4]], atol=1e-4)
    assert not np.allclose(vectors[0], vectors[1], atol=0.05)
    assert answer["usage"]["prompt_tokens"] == 2 * (1 + 16 + 4) + (1 + 16 + 4) + 2 * len(river_tokens(folder))


def river_tokens(folder: Path) -> list[int]:
    tokenizer = load_tokenizer(folder)
    assert tokenizer is not None
    return tokenizer.encode("a river")


def test_what_cannot_be_embedded_is_named(node: Node) -> None:
    for one, match, param in (
        ({"image": "@@@"}, "not valid base64", "input[1].image"),
        ({"audio": "AAAA"}, "takes text and images", "input[1].type"),
        ({"smell": "x"}, "one of text, image, audio and series", "input[1]"),
        ({"type": "image_url"}, "must be a data URL", "input[1].image_url"),
        ({"type": "text"}, "one of text, image, audio and series", "input[1]"),
        ({"type": "media", "media": {}}, "one of text, image, audio and series", "input[1]"),
    ):
        answer = node.http.post("/v1/embeddings", json={"input": ["a river", one]})
        assert answer.status_code == 400, answer.text
        assert match in answer.json()["error"]["message"]
        assert answer.json()["error"]["param"] == param
