"""Transcriptions by the mistralai package, from a live node with a tiny random model that hears."""

from __future__ import annotations

import base64
import io
import math
import struct
import subprocess
import wave
from collections.abc import Iterator
from typing import Any

import pytest
from mistralai.client import Mistral, models
from mistralai.client.errors import SDKError
from nodes import PYTHON, ROOT, Node, live_node

RATE = 16_000


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("hearing") / "ear"
    # Random models seldom end by themselves, and this client cannot ask for fewer tokens.
    command = [PYTHON, ROOT / "tests" / "hearing.py", folder, "64"]
    written = subprocess.run(command, capture_output=True, text=True)
    assert written.returncode == 0, written.stderr
    with live_node(str(folder)) as node:
        yield node


@pytest.fixture
def sdk(hearing: Node) -> Iterator[Mistral]:
    with Mistral(api_key="any", server_url=hearing.url) as client:
        yield client


def tone(seconds: float) -> bytes:
    count = int(seconds * RATE)
    samples = [int(9000 * math.sin(2 * math.pi * 440 * at / RATE)) for at in range(count)]
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, RATE, count, "NONE", ""))
        out.writeframes(struct.pack(f"<{count}h", *samples))
    return file.getvalue()


def asked(**fields: Any) -> dict[str, Any]:
    return {"model": "ear", "file": models.File(file_name="speech.wav", content=tone(1.25)), **fields}


def test_a_file_is_transcribed(sdk: Mistral) -> None:
    answer = sdk.audio.transcriptions.complete(**asked(language="en", temperature=0))
    assert (answer.model, answer.language) == ("ear", "en")
    assert answer.text
    assert answer.usage.prompt_audio_seconds == 2
    assert answer.usage.total_tokens == (answer.usage.prompt_tokens or 0) + (answer.usage.completion_tokens or 0)
    assert not answer.segments


def test_a_stream_is_the_same_text(sdk: Mistral) -> None:
    whole = sdk.audio.transcriptions.complete(**asked(language="en"))
    first, *deltas, done = [event.data for event in sdk.audio.transcriptions.stream(**asked(language="en"))]
    assert isinstance(first, models.TranscriptionStreamLanguage)
    assert first.audio_language == "en"
    assert all(isinstance(delta, models.TranscriptionStreamTextDelta) for delta in deltas)
    assert isinstance(done, models.TranscriptionStreamDone)
    assert "".join(delta.text for delta in deltas) == done.text == whole.text
    assert done.usage == whole.usage
    plain = [event.data for event in sdk.audio.transcriptions.stream(**asked())]
    assert isinstance(plain[0], models.TranscriptionStreamTextDelta)


def test_hints_are_taken(sdk: Mistral) -> None:
    assert sdk.audio.transcriptions.complete(**asked(context_bias=["Ostro", "Voxtral"])).text


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"diarize": True}, "not by whom"),
        ({"timestamp_granularities": ["segment"]}, "not when"),
        ({"file": None, "file_id": "3fa85f64-5717-4562-b3fc-2c963f66afa6"}, "send the sound as 'file'"),
        ({"file": None, "file_url": "https://example.org/a.wav"}, "--allow-media-from"),
        ({"file": None}, "no part 'file'"),
    ],
)
def test_what_cannot_be_done_is_refused(sdk: Mistral, fields: dict[str, Any], match: str) -> None:
    for ask in (sdk.audio.transcriptions.complete, sdk.audio.transcriptions.stream):
        with pytest.raises(SDKError) as raised:
            ask(**asked(**fields))
        assert raised.value.status_code == 400
        assert match in str(raised.value.body)


def test_sounds_in_a_chat(sdk: Mistral) -> None:
    chunk = {"type": "input_audio", "input_audio": base64.b64encode(tone(0.5)).decode()}
    messages: Any = [{"role": "user", "content": [chunk, {"type": "text", "text": "what is said"}]}]
    answer = sdk.chat.complete(model="ear", messages=messages, max_tokens=8)
    assert (answer.usage.prompt_tokens or 0) > 10
