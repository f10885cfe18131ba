"""A series, alone and beside an image and a sound, through the doors of a live node whose model has all senses."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nodes import Node
from PIL import Image
from real_nodes import VOCABULARY, served

from hearing import sound
from ostro import Client
from ostro.core.errors import InvalidRequestError
from ostro.core.sampling import SamplingParams
from ostro.engine.llm import LLM
from ostro.media.audio import read_audio
from ostro.media.image import read_image
from ostro.models.config import DecoderConfig
from ostro.models.ostro.config import AdapterConfig, OstroConfig
from ostro.models.ostro.model import UnifiedDecoder
from ostro.models.ostro.stems import ConvConfig, StemConfig
from ostro.training.tokenizer import special_tokens, train_tekken, write_tekken
from ostro.weights.writer import save_checkpoint

SPECIAL = 40
ASKED = "what does the series do"
VALUES = [1, 2.5, 3, 4, 5.25, 6, 7, 8, 9]
AUDIO_SECTION: dict[str, Any] = {
    "sampling_rate": 16_000,
    "frame_rate": 25.0,
    "audio_encoding_config": {"num_mel_bins": 16, "hop_length": 160, "window_size": 400},
}


def write_sensing_model(folder: Path, context: int = 512) -> None:
    """context: in tokens."""
    torch.manual_seed(0)
    names = special_tokens()
    stems = (
        StemConfig("image", 3, (ConvConfig(16, 4, 4), ConvConfig(32, 2, 2)), 1, 2, 48, names.index("[IMG]")),
        StemConfig("audio", 16, (ConvConfig(32, 4, 4),), 0, 1, 1, names.index("[AUDIO]"), 100),
        StemConfig("series", 4, (ConvConfig(32, 4, 4),), 0, 1, 1, names.index("[SERIES]"), 100),
    )
    base = DecoderConfig(
        architecture="ostro",
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        rms_norm_eps=1e-5,
        rope_theta=1e4,
        max_position_embeddings=context,
        windows=(0, 0),
        tie_word_embeddings=True,
    )
    fields = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    fields |= {"unrotated": 2, "encoders": stems}
    model = UnifiedDecoder(OstroConfig(**fields, adapter=AdapterConfig(1, 8), routing=True, embedding=24))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
            else:
                parameter.normal_(std=0.15)
    save_checkpoint(model, folder, dtype=torch.float32)
    texts = ["once upon a time there was a river", "what does the series do in the picture of the bridge"] * 5
    content = train_tekken(texts, vocab_size=VOCABULARY, num_special=SPECIAL)
    write_tekken({**content, "audio": AUDIO_SECTION}, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sensing") / "senses"
    write_sensing_model(folder)
    return folder


@pytest.fixture(scope="module")
def node(folder: Path) -> Iterator[Node]:
    with served(folder) as running:
        yield running


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(folder, threads=1)


def picture() -> str:
    values = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(values).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def series_part(values: Any = VALUES) -> dict[str, Any]:
    return {"type": "input_series", "input_series": values}


def image_part() -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture()}"}}


def sound_part() -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(sound()).decode(), "format": "wav"}}


TEXT = {"type": "text", "text": ASKED}
MIXES = [
    [series_part(), TEXT],
    [series_part({"values": VALUES}), TEXT],
    [TEXT, series_part(), series_part([5] * 40)],
    [series_part(), image_part(), series_part([1, -1] * 9), TEXT],
    [image_part(), sound_part(), series_part(), TEXT],
    [sound_part(), series_part(), TEXT, image_part()],
]


def expected(llm: LLM, parts: list[dict[str, Any]]) -> tuple[str, int]:
    (output,) = llm.chat([{"role": "user", "content": parts}], SamplingParams(temperature=0, max_tokens=12))
    return output.text, output.usage.prompt_tokens


@pytest.mark.parametrize("parts", MIXES)
def test_chat_takes_series_among_all_else(node: Node, llm: LLM, parts: list[dict[str, Any]]) -> None:
    body = {"messages": [{"role": "user", "content": parts}], "temperature": 0, "max_tokens": 12}
    answer = node.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    text, tokens = expected(llm, parts)
    assert answer.json()["choices"][0]["message"]["content"] == text
    assert answer.json()["usage"]["prompt_tokens"] == tokens


def test_other_numbers_other_answers(node: Node) -> None:
    texts = set()
    for values in (VALUES, [3, 1] * 20, [1e6] * 3, [0, 0, 0, 9]):
        body = {"inputs": {"series": values, "text": ASKED}, "max_tokens": 12}
        texts.add(node.http.post("/v1/infer", json=body).json()["text"])
    assert len(texts) > 1


@pytest.mark.parametrize(("length", "tokens"), [(1, 1), (4, 1), (5, 2), (400, 100)])
def test_a_token_stands_for_so_many_values(node: Node, length: int, tokens: int) -> None:
    def count(*parts: Any) -> int:
        return int(node.http.post("/tokenize", json={"messages": [{"role": "user", "content": parts}]}).json()["count"])

    assert count(series_part([1.0] * length), TEXT) - count(TEXT) == tokens


def test_infer_and_the_client_take_series(node: Node, llm: LLM) -> None:
    text, _ = expected(llm, MIXES[0])
    for series in (VALUES, {"values": VALUES}):
        inputs = {"text": ASKED, "series": series}
        for body in ({"inputs": inputs}, inputs):
            assert node.http.post("/v1/infer", json={**body, "max_tokens": 12}).json()["text"] == text
    whole, _ = expected(llm, MIXES[4])
    with Client(api_key="none", endpoint=node.url) as client:
        for given in (VALUES, tuple(VALUES), np.array(VALUES), {"values": VALUES}):
            assert client.infer({"text": ASKED, "series": given}, max_tokens=12).text == text
        everything = {"text": ASKED, "series": VALUES, "image": picture(), "audio": sound()}
        assert client.infer(everything, max_tokens=12).text == whole
        for wrong in ([], "1, 2", [1, "x"], [float("nan")], [[1, 2], [3]], 7):
            with pytest.raises(InvalidRequestError, match="list of finite numbers"):
                client.infer({"series": wrong})


def test_sounds_and_images_are_embedded_beside_texts(node: Node, llm: LLM) -> None:
    short, named = {"audio": sound_part()["input_audio"]["data"]}, sound_part()
    answer = node.http.post("/v1/embeddings", json={"input": ["a river", short, named, image_part()]})
    assert answer.status_code == 200, answer.text
    items = answer.json()["data"]
    assert [item["index"] for item in items] == [0, 1, 2, 3]
    vectors = np.array([item["embedding"] for item in items])
    assert vectors.shape == (4, 24)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    # The same sound, whichever way it was written.
    np.testing.assert_allclose(vectors[1], vectors[2], atol=1e-5)
    for other in (0, 3):
        assert np.abs(vectors[1] - vectors[other]).max() > 0.05
    assert llm.tokenizer is not None
    prompts = [
        llm.tokenizer.encode_media(read_audio(sound(), llm._senses.audio)),
        llm.tokenizer.encode_media(read_image(base64.b64decode(picture()), llm._senses.image)),
    ]
    heard, seen = (len(prompt.token_ids) for prompt in prompts)
    assert answer.json()["usage"]["prompt_tokens"] == len(llm.tokenizer.encode("a river")) + 2 * heard + seen
    alone_ND = llm.embed(prompts)
    np.testing.assert_allclose(vectors[[1, 3]], alone_ND, atol=1e-4)


def test_a_series_is_embedded_in_both_forms(node: Node) -> None:
    given = [{"series": VALUES}, {"type": "input_series", "input_series": VALUES}, {"series": VALUES[::-1]}]
    answer = node.http.post("/v1/embeddings", json={"input": given})
    assert answer.status_code == 200, answer.text
    short, named, other = (np.array(item["embedding"]) for item in answer.json()["data"])
    np.testing.assert_allclose(short, named, atol=1e-5)
    assert np.abs(short - other).max() > 0.01
    wrong = node.http.post("/v1/embeddings", json={"input": ["a river", {"series": [1, "x"]}]})
    assert wrong.status_code == 400
    assert wrong.json()["error"]["param"].startswith("input[1]")
    nothing = node.http.post("/v1/embeddings", json={"input": [{"video": "x"}]})
    assert "one of text, image, audio and series" in nothing.json()["error"]["message"]


def test_what_a_model_senses_is_told(node: Node) -> None:
    capabilities = node.http.get("/v1/models/senses").json()["capabilities"]
    assert (capabilities["vision"], capabilities["audio"], capabilities["series"]) == (True, True, True)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ([], "is empty"),
        ("1, 2", ""),
        ([1, "2"], "[1] must be a number, not str"),
        ([1, None], "[1] must be a number, not nothing"),
        ([[1, 2], [3]], "[0] must be a number, not list"),
        ([10**400], "finite"),
        ([1] * 401, "401 values; up to 400"),
        ({"value": [1]}, "must be a list of numbers, not nothing"),
    ],
)
def test_bad_series_are_400_with_a_reason(node: Node, value: Any, match: str) -> None:
    messages = [{"role": "user", "content": [series_part(value), TEXT]}]
    answer = node.http.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 4})
    assert answer.status_code == 400, answer.text
    assert match in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"].startswith("messages")
    answer = node.http.post("/v1/infer", json={"inputs": {"series": value, "text": ASKED}, "max_tokens": 4})
    assert answer.status_code == 400, answer.text
    assert match in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"].startswith("inputs.series")


def test_only_a_user_may_show_one(node: Node) -> None:
    messages = [{"role": "system", "content": [series_part()]}, {"role": "user", "content": ASKED}]
    answer = node.http.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 4})
    assert answer.status_code == 400
    assert "is a series, which only a user's message may hold" in answer.json()["error"]["message"]
