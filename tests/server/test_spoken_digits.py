"""`/v1/audio/transcriptions` of the embedded models, which know spoken digits: a node as a user starts it."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator

import httpx2
import numpy as np
import pytest
import soundfile
from nodes import Node
from real_nodes import served

from ostro import LLM, SamplingParams
from ostro.core.paths import embedded_models
from ostro.media.audio import read_audio
from ostro.media.senses import read_senses
from ostro.training.senses.digits import WORDS

PATH = "/v1/audio/transcriptions"
RATE = 8_000
SECONDS = 0.55


def utterance(seed: int) -> bytes:
    """As long as a spoken digit, and as loud: a voice of some pitch through two resonances that move."""
    generator = np.random.default_rng(seed)
    at = np.arange(int(SECONDS * RATE)) / RATE
    pitch, starts, ends = generator.uniform(90, 220), generator.uniform(250, 2500, 2), generator.uniform(250, 2500, 2)
    wave = np.zeros_like(at)
    for harmonic in range(1, int(3500 / pitch)):
        near = sum(
            np.exp(-(((harmonic * pitch - start - (end - start) * at / SECONDS) / 150) ** 2))
            for start, end in zip(starts, ends, strict=True)
        )
        wave += near * np.sin(2 * np.pi * harmonic * pitch * at)
    out = io.BytesIO()
    soundfile.write(out, 0.3 * wave / np.abs(wave).max() * np.hanning(len(at)), RATE, format="WAV", subtype="PCM_16")
    return out.getvalue()


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with served("ostro-nano", "--model", "edge=ostro-nano-edge") as running:
        yield running


def post(node: Node, data: bytes, **fields: str) -> httpx2.Response:
    answer = node.http.post(PATH, files={"file": ("digit.wav", data)}, data=fields)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("model", ["ostro-nano", "edge"])
@pytest.mark.parametrize("seed", range(3))
def test_a_digit_is_heard_in_every_format(node: Node, model: str, seed: int) -> None:
    """Which one it is of what nobody spoke is not asked: that it is the same one, and a digit."""
    data = utterance(seed)
    whole = post(node, data, model=model).json()
    assert whole["text"] in WORDS
    assert whole["language"] is None
    assert whole["model"] == model
    usage = whole["usage"]
    assert usage["type"] == "tokens"
    assert usage["input_token_details"]["audio_tokens"] > 0
    assert usage["prompt_audio_seconds"] == math.ceil(SECONDS)
    plain = post(node, data, model=model, response_format="text")
    assert plain.headers["content-type"].startswith("text/plain")
    assert plain.text == whole["text"]
    verbose = post(node, data, model=model, response_format="verbose_json").json()
    assert (verbose["task"], verbose["text"], verbose["language"]) == ("transcribe", whole["text"], None)
    assert verbose["duration"] == verbose["usage"]["seconds"] == pytest.approx(SECONDS)
    (segment,) = verbose["segments"]
    assert (segment["start"], segment["end"], segment["text"]) == (0, verbose["duration"], whole["text"])
    told = post(node, data, model=model, response_format="verbose_json", language="en").json()
    assert told["language"] == "en"
    assert told["text"] in WORDS


def test_it_is_what_the_model_says_in_process(node: Node) -> None:
    llm, settings = LLM("ostro-nano", threads=1), read_senses(embedded_models()["ostro-nano"]).audio
    assert settings is not None
    assert llm.tokenizer is not None
    said = []
    for seed in range(8):
        prompt = llm.tokenizer.render_transcription(read_audio(utterance(seed), settings))
        (output,) = llm.generate([prompt], SamplingParams(temperature=0, max_tokens=16))
        said.append(post(node, utterance(seed)).json()["text"])
        assert said[-1] == output.text.strip()
    assert len(set(said)) > 1, "other sounds, other digits"


def test_a_sound_that_is_too_long_for_the_encoder_is_refused(node: Node) -> None:
    out = io.BytesIO()
    soundfile.write(out, np.zeros(60 * RATE), RATE, format="FLAC")
    answer = node.http.post(PATH, files={"file": ("digit.flac", out.getvalue())})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")
