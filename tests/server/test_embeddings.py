"""`/v1/embeddings` of a real engine, against what transformers computes for the same checkpoint."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from nodes import Node, until
from real_nodes import served, write_tiny_model

from ostro.tokenizer import Tokenizer, load_tokenizer

TEXTS = ["the river was wide", "once upon a time", "a", "the bridge was far " * 12]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("embedded") / "model"
    write_tiny_model(path)
    return path


@pytest.fixture(scope="module")
def node(folder: Path) -> Iterator[Node]:
    with served(folder, "--served-name", "tiny", "--kv-memory", "4MB", "--max-num-seqs", "8") as running:
        running.wait_ready()
        yield running


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    loaded = load_tokenizer(folder)
    assert loaded is not None
    return loaded


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


def expected(reference: Any, ids: list[int], pooling: str) -> np.ndarray:
    with torch.no_grad():
        hidden_TD = reference(torch.tensor([ids])).last_hidden_state[0]
    vector_D = hidden_TD[-1] if pooling == "last" else hidden_TD.mean(0)
    return (vector_D / vector_D.norm()).numpy()


def embed(node: Node, given: Any, **fields: Any) -> Any:
    answer = node.http.post("/v1/embeddings", json={"model": "tiny", "input": given, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_vectors_are_the_references(node: Node, tokenizer: Tokenizer, reference: Any, pooling: str) -> None:
    answer = embed(node, TEXTS, pooling=pooling)
    assert [item["index"] for item in answer["data"]] == list(range(len(TEXTS)))
    ids = [tokenizer.encode(text) for text in TEXTS]
    for item, one in zip(answer["data"], ids, strict=True):
        np.testing.assert_allclose(item["embedding"], expected(reference, one, pooling), atol=2e-3)
        assert abs(float(np.linalg.norm(item["embedding"])) - 1) < 1e-5
    count = sum(map(len, ids))
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["total_tokens"]) == (count, count)


def test_token_ids_base64_and_widths_are_the_same_vectors(node: Node, tokenizer: Tokenizer) -> None:
    ids = [tokenizer.encode(text) for text in TEXTS]
    plain = [item["embedding"] for item in embed(node, TEXTS)["data"]]
    np.testing.assert_allclose([item["embedding"] for item in embed(node, ids)["data"]], plain, atol=1e-5)
    np.testing.assert_allclose(embed(node, ids[0])["data"][0]["embedding"], plain[0], atol=1e-5)
    raw = base64.b64decode(embed(node, TEXTS[0], encoding_format="base64")["data"][0]["embedding"])
    np.testing.assert_allclose(np.frombuffer(raw, "<f4"), plain[0], atol=1e-5)
    for field in ("dimensions", "output_dimension"):
        (item,) = embed(node, TEXTS[0], **{field: 8})["data"]
        first = np.array(plain[0][:8])
        np.testing.assert_allclose(item["embedding"], first / np.linalg.norm(first), atol=1e-5)


def test_openai_sdk_reads_them(node: Node) -> None:
    with openai.OpenAI(base_url=f"{node.url}/v1", api_key="any", max_retries=0) as sdk:
        answer = sdk.embeddings.create(model="tiny", input=TEXTS)
        plain = [item["embedding"] for item in embed(node, TEXTS)["data"]]
        np.testing.assert_allclose([item.embedding for item in answer.data], plain, atol=1e-5)
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.embeddings.create(model="tiny", input=["a", ""])
        assert caught.value.param == "input[1]"
        with pytest.raises(openai.NotFoundError):
            sdk.embeddings.create(model="other", input="a")


def test_many_at_once_beside_chats_are_the_same(node: Node) -> None:
    """More inputs than the engine has rows, from several clients, while it answers chats; the cache is in use."""
    plain = {text: embed(node, text)["data"][0]["embedding"] for text in TEXTS}
    with ThreadPoolExecutor(6) as pool:
        chats = [pool.submit(node.chat, "where is the river?", max_tokens=24) for _ in range(2)]
        batches = [pool.submit(embed, node, TEXTS * 12) for _ in range(4)]
        for batch in batches:
            for text, item in zip(TEXTS * 12, batch.result()["data"], strict=True):
                np.testing.assert_allclose(item["embedding"], plain[text], atol=2e-3)
        assert all(chat.result().status_code == 200 for chat in chats)
    until(lambda: node.metric("vllm:num_requests_running", model_name="tiny") == 0)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", []]}, "input"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": [1, -1]}, "input"),
        ({"input": [10**12]}, "input"),
        ({"input": [5000]}, "input"),
        ({"input": "the river " * 3000}, "input"),
        ({"input": "a", "dimensions": 100_000}, "dimensions"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 4, "output_dimension": 8}, "output_dimension"),
        ({"input": "a", "output_dtype": "int8"}, "output_dtype"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "pooling": "max"}, "pooling"),
        ({"input": ["a"] * 2049}, "input"),
        ({}, "input"),
    ],
)
def test_refusals_name_the_field(node: Node, fields: dict[str, Any], param: str) -> None:
    answer = node.http.post("/v1/embeddings", json={"model": "tiny", **fields})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert str(error["param"]).startswith(param), error
    assert embed(node, "a")["data"]


def test_unknown_fields_are_named(node: Node) -> None:
    answer = node.http.post("/v1/embeddings", json={"input": "a", "shape": 3})
    assert answer.headers["x-ostro-ignored"] == "shape"
