"""`/v1/audio/transcriptions` of a live node that serves a model which hears, a tiny random one."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
import soundfile
from nodes import Node, until
from pydantic_extra_types.language_code import _index_by_alpha2
from real_nodes import served, write_tiny_model

from hearing import CHUNK_TOKENS, FORMATS, sound, tones, write_hearing_model
from ostro.core.sampling import SamplingParams
from ostro.engine.llm import LLM
from ostro.media.audio import read_sound
from ostro.media.senses import read_senses
from ostro.web.transcriptions import LANGUAGES

PATH = "/v1/audio/transcriptions"
FEW = {"max_tokens": "12"}
MAX_AUDIO = 1024 * 1024
# Of a prompt without a language, those that stand for no sound: <s> [INST] [BEGIN_AUDIO] [/INST] [TRANSCRIBE].
AROUND = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hearing") / "ear"
    write_hearing_model(folder)
    return folder


@pytest.fixture(scope="module")
def node(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    deaf = tmp_path_factory.mktemp("deaf") / "deaf"
    write_tiny_model(deaf)
    with served(folder, "--model", f"deaf={deaf}", "--max-audio", "1MiB") as running:
        yield running


@pytest.fixture(scope="module")
def client(node: Node) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{node.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def expected(folder: Path) -> Callable[..., str]:
    """What the model says was said, in this process."""
    llm, senses = LLM(folder, threads=1), read_senses(folder)
    assert senses.audio is not None

    def answer(data: bytes, language: str | None = None, tokens: int = 12) -> str:
        assert llm.tokenizer is not None
        prompt = llm.tokenizer.render_transcription(read_sound(data, senses.audio).media, language)
        return llm.generate([prompt], SamplingParams(temperature=0, max_tokens=tokens))[0].text

    return answer


def post(node: Node, data: bytes | None = None, name: str = "a.wav", **fields: Any) -> httpx2.Response:
    files = {"file": (name, sound() if data is None else data)}
    return node.http.post(PATH, files=files, data=FEW | fields)


def refusal(answer: httpx2.Response) -> tuple[int, str, str]:
    """Status, field and message."""
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    return answer.status_code, error["param"], error["message"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (16_000, 1), (44_100, 2)])
def test_every_format_is_transcribed_as_in_process(
    client: openai.OpenAI, expected: Callable[..., str], name: str, rate: int, channels: int
) -> None:
    for seed in (0, 1):
        data = sound(name, 1.0, rate, channels, seed)
        answer = client.audio.transcriptions.create(
            file=(f"speech.{name}", data), model="ear", temperature=0, extra_body=FEW
        )
        assert answer.text == expected(data)


def test_other_sounds_have_other_words(expected: Callable[..., str]) -> None:
    assert len({expected(sound(seed=seed)) for seed in range(3)}) == 3


def test_usage_counts_sound_and_text(client: openai.OpenAI) -> None:
    for seconds, chunks in ((0.05, 1), (0.4, 1), (1.0, 3), (8.01, 21)):
        file = ("a.wav", sound(seconds=seconds))
        answer = client.audio.transcriptions.create(file=file, model="ear", extra_body=FEW)
        usage = answer.usage
        assert usage is not None
        assert usage.type == "tokens"
        assert usage.input_token_details is not None
        assert usage.input_token_details.audio_tokens == CHUNK_TOKENS * chunks
        assert usage.input_token_details.text_tokens == AROUND
        assert usage.input_tokens == CHUNK_TOKENS * chunks + AROUND
        assert usage.total_tokens == usage.input_tokens + usage.output_tokens
        assert 0 < usage.output_tokens <= 12


def test_the_language_is_told_to_the_model(client: openai.OpenAI, expected: Callable[..., str], node: Node) -> None:
    data = sound(seed=5)
    answer = client.audio.transcriptions.create(file=("a.wav", data), model="ear", language="en", extra_body=FEW)
    assert answer.text == expected(data, "en")
    told = post(node, data, language="EN").json()
    assert (told["text"], told["language"]) == (expected(data, "en"), "en")
    assert post(node, data).json()["language"] is None
    assert told["usage"]["input_token_details"]["text_tokens"] > AROUND
    for wrong in ("english", "xx", "en-US", "e"):
        status, param, message = refusal(post(node, data, language=wrong))
        assert (status, param) == (400, "language")
        assert "ISO 639-1" in message


def test_languages_are_those_of_mistral_common() -> None:
    assert set(_index_by_alpha2()) == LANGUAGES


def test_formats_of_the_answer(client: openai.OpenAI, expected: Callable[..., str]) -> None:
    data = sound(seconds=1.25, rate=44_100, channels=2, seed=2)
    text = expected(data)
    options: dict[str, Any] = {"file": ("a.wav", data), "model": "ear", "extra_body": FEW}
    plain: Any = client.audio.transcriptions.create(response_format="text", **options)
    assert plain == text
    raw = client.audio.transcriptions.with_raw_response.create(response_format="text", **options)
    assert raw.headers["content-type"].startswith("text/plain")
    verbose = client.audio.transcriptions.create(response_format="verbose_json", language="fr", **options)
    assert (verbose.language, verbose.duration) == ("fr", 1.25)
    assert verbose.text == expected(data, "fr")
    assert verbose.usage is not None
    assert (verbose.usage.type, verbose.usage.seconds) == ("duration", 1.25)
    (segment,) = verbose.segments or []
    assert (segment.id, segment.start, segment.end, segment.text) == (0, 0.0, 1.25, verbose.text)
    assert segment.temperature == 0
    assert len(segment.tokens) <= 12
    assert not hasattr(segment, "avg_logprob") or segment.avg_logprob is None


def test_verbose_json_invents_nothing(node: Node) -> None:
    answer = post(node, response_format="verbose_json").json()
    assert answer["task"] == "transcribe"
    assert answer["language"] is None
    assert answer["segments"][0].keys() == {"id", "seek", "start", "end", "text", "tokens", "temperature"}


def test_streams_are_openai_s(client: openai.OpenAI, expected: Callable[..., str]) -> None:
    data = sound(seed=3)
    options: dict[str, Any] = {"file": ("a.wav", data), "model": "ear", "extra_body": FEW}
    whole = client.audio.transcriptions.create(**options)
    *deltas, done = client.audio.transcriptions.create(stream=True, **options)
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert len(deltas) > 1, "text comes while it is made"
    assert done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas) == done.text == whole.text == expected(data)
    assert done.usage is not None
    assert whole.usage is not None
    assert done.usage.to_dict() == whole.usage.to_dict()
    *_, last = client.audio.transcriptions.create(stream=True, response_format="text", **options)
    assert last.to_dict() == done.to_dict()


def test_log_probabilities(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"file": ("a.wav", sound()), "model": "ear", "include": ["logprobs"], "extra_body": FEW}
    answer = client.audio.transcriptions.create(**options)
    assert answer.usage is not None
    assert answer.logprobs is not None
    assert len(answer.logprobs) == answer.usage.output_tokens
    assert all(entry.logprob is not None and entry.logprob <= 0 for entry in answer.logprobs)
    raw = b"".join(bytes(map(int, entry.bytes or ())) for entry in answer.logprobs)
    assert raw.decode(errors="replace").startswith(answer.text.rstrip("�")[:4])
    *deltas, done = client.audio.transcriptions.create(stream=True, **options)
    joined = [entry.to_dict() for event in deltas for entry in event.logprobs or ()]
    assert joined == [entry.to_dict() for entry in done.logprobs or ()] == [one.to_dict() for one in answer.logprobs]


def events(node: Node, accept: str, **fields: Any) -> list[tuple[str | None, Any]]:
    """Names and payloads."""
    files = {"file": ("a.wav", sound(seed=3))}
    answer = node.http.post(PATH, files=files, data=FEW | {"stream": "true"} | fields, headers={"accept": accept})
    assert answer.status_code == 200, answer.text
    found = []
    for block in answer.text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        data = lines["data"]
        found.append((lines.get("event"), data if data == "[DONE]" else json.loads(data)))
    return found


def test_streams_are_mistral_s_for_who_asks_for_them_by_type(node: Node, expected: Callable[..., str]) -> None:
    text = expected(sound(seed=3), "de")
    found = events(node, "text/event-stream", language="de")
    assert [name for name, _ in found] == [
        "transcription.language",
        *["transcription.text.delta"] * (len(found) - 2),
        "transcription.done",
    ]
    assert all(name == data["type"] for name, data in found)
    assert found[0][1]["audio_language"] == "de"
    assert "".join(data["text"] for _, data in found[1:-1]) == text
    assert len(found) > 3, "text comes while it is made"
    done = found[-1][1]
    assert (done["text"], done["model"], done["language"]) == (text, "ear", "de")
    assert done["usage"]["prompt_audio_seconds"] == 1
    assert done["usage"]["total_tokens"] == done["usage"]["prompt_tokens"] + done["usage"]["completion_tokens"]
    assert events(node, "text/event-stream")[0][0] == "transcription.text.delta"
    others = events(node, "application/json", language="de")
    assert {name for name, _ in others} == {None}
    assert others[-1][1] == "[DONE]"


def test_the_model_may_be_left_out_and_sampling_chosen(node: Node, expected: Callable[..., str]) -> None:
    assert post(node).json()["model"] == "ear"
    hot = {post(node, temperature="1.5", seed=str(seed)).json()["text"] for seed in (1, 1, 2)}
    assert len(hot) == 2
    assert post(node, max_tokens="3").json()["usage"]["output_tokens"] == 3
    assert refusal(post(node, max_tokens="100000"))[:2] == (400, "file")


def test_what_has_no_place_is_named(node: Node) -> None:
    answer = post(node, prompt="The bridge.", chunking_strategy="auto", **{"keywords[]": "a"}, diarize="false")
    assert answer.status_code == 200
    assert answer.headers["x-ostro-ignored"] == "chunking_strategy, keywords, prompt"
    quiet = post(node, prompt="", language="", response_format="json", stream="false")
    assert "x-ostro-ignored" not in quiet.headers
    streamed = node.http.post(PATH, files={"file": ("a.wav", sound())}, data=FEW | {"stream": "1", "prompt": "x"})
    assert streamed.headers["x-ostro-ignored"] == "prompt"


REFUSED = [
    ({"response_format": "srt"}, "response_format", "not when"),
    ({"response_format": "vtt"}, "response_format", "not when"),
    ({"response_format": "diarized_json"}, "response_format", "verbose_json"),
    ({"response_format": "yaml"}, "response_format", "Known are json"),
    ({"response_format": "verbose_json", "stream": "true"}, "response_format", "events of its own"),
    ({"timestamp_granularities[]": "word"}, "timestamp_granularities", "not when"),
    ({"timestamp_granularities": ["segment", "word"]}, "timestamp_granularities", "not when"),
    ({"diarize": "true"}, "diarize", "not by whom"),
    ({"file_id": "file-123"}, "file_id", "send the sound"),
    ({"file_url": "https://example.org/a.wav"}, "file_url", "send one sound"),
    ({"include[]": ["logprobs", "words"]}, "include", "'words'"),
    ({"include[]": "logprobs", "response_format": "text"}, "include", "needs response_format json"),
    ({"temperature": "warm"}, "temperature", "number"),
    ({"temperature": "-1"}, "temperature", "temperature"),
    ({"temperature": "nan"}, "temperature", "temperature"),
    ({"stream": "maybe"}, "stream", "boolean"),
    ({"max_tokens": "0"}, "max_tokens", "max_tokens"),
    ({"priority": "1000"}, "priority", "100"),
    ({"timeout": "-1"}, "timeout", "greater than 0"),
    ({"language": ["en", "de"]}, "language", "more than once"),
    ({"model": "deaf"}, "model", "does not hear"),
]


@pytest.mark.parametrize(("fields", "param", "match"), REFUSED, ids=lambda value: str(value)[:40])
def test_fields_are_refused_by_name(node: Node, fields: dict[str, Any], param: str, match: str) -> None:
    status, named, message = refusal(post(node, **fields))
    assert (status, named) == (400, param)
    assert match in message


def test_a_model_that_is_not_there(node: Node) -> None:
    assert refusal(post(node, model="whisper-1"))[:2] == (404, "model")


def picture() -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    return out.getvalue()


def silence(hours: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(int(hours * 3600 * 16_000), dtype=np.float32), 16_000, format="FLAC")
    return file.getvalue()


def lasting(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="WAV", subtype="FLOAT")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "name", "match"),
    [
        (b"", "a.wav", "empty"),
        (lasting(tones(0.0)), "a.wav", "no samples"),
        (silence(1), "a.flac", "3600 seconds long"),
        (sound("flac"), "a.wav", "declared as"),
        (sound()[:2000], "a.wav", "cut off"),
        (sound("mp3")[:2000], "a.mp3", "cut off"),
        (sound("ogg")[:2000], "a.ogg", "cut off"),
        (sound("flac")[:2000], "a.flac", "cut off"),
        (picture(), "a.wav", "PNG"),
        (picture(), "a.png", "declared as 'image/png'"),
        (b"hello world", "a.txt", "declared as 'text/plain'"),
        (lasting(np.full(16_000, np.nan, dtype=np.float32)), "a.wav", "not numbers"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)
def test_what_is_no_sound_is_refused(node: Node, data: bytes, name: str, match: str) -> None:
    status, param, message = refusal(post(node, data, name))
    assert (status, param) == (400, "file")
    assert message.startswith("file: ")
    assert match in message
    early = node.http.post(PATH, files={"file": (name, data)}, data={"stream": "true"})
    assert early.status_code == 400, "before a stream begins"


def test_sounds_longer_than_the_context_are_refused(node: Node) -> None:
    status, param, message = refusal(post(node, sound("mp3", 60), "a.mp3"))
    assert (status, param) == (400, "file")
    assert "maximum context length" in message


def test_what_is_no_form_with_one_file_is_refused(node: Node) -> None:
    data = sound()
    assert refusal(node.http.post(PATH, data=FEW))[:2] == (400, "file")
    assert refusal(node.http.post(PATH, files={"model": (None, "ear")}))[:2] == (400, "file")
    assert refusal(node.http.post(PATH, files={"file": (None, "text")}))[:2] == (400, "file")
    assert refusal(node.http.post(PATH, files={"sound": ("a.wav", data)}))[:2] == (400, "file")
    two = [("file", ("a.wav", data)), ("file", ("b.wav", data))]
    assert refusal(node.http.post(PATH, files=two))[:2] == (400, "file")
    for wrong in ({"json": {"file": "x"}}, {"content": data, "headers": {"content-type": "audio/wav"}}, {}):
        answer = node.http.post(PATH, **wrong)  # type: ignore[arg-type]  # wrong on purpose
        assert answer.status_code == 415
        assert "multipart/form-data" in refusal(answer)[2]
    form = {"content-type": "multipart/form-data; boundary=b"}
    for content in (b"", b"nonsense", b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n{}'):
        assert node.http.post(PATH, content=content, headers=form).status_code == 400
    for content in (b"\xff=1", b"&".join(b"a%d=1" % number for number in range(100))):
        headers = {"content-type": "application/x-www-form-urlencoded"}
        assert node.http.post(PATH, content=content, headers=headers).status_code == 400


def test_more_than_the_limit_is_413(node: Node) -> None:
    assert post(node, sound(seconds=17, rate=32_000)).status_code == 413
    status, param, message = refusal(post(node, b"x" * (MAX_AUDIO + 1)))
    assert (status, param) == (413, "file")
    assert str(MAX_AUDIO) in message

    def pieces() -> Iterator[bytes]:  # without a declared length
        yield b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(3):
            yield b"y" * (MAX_AUDIO // 2)

    form = {"content-type": "multipart/form-data; boundary=b"}
    assert refusal(node.http.post(PATH, content=pieces(), headers=form))[:2] == (413, "file")


def test_a_page_of_another_site_asks_for_nothing(node: Node) -> None:
    file = {"file": ("a.wav", sound())}
    answer = node.http.post(PATH, files=file, data=FEW, headers={"origin": "https://evil.example"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden_origin")
    assert node.http.post(PATH, files=file, data=FEW, headers={"origin": node.url}).status_code == 200


def test_translations_are_no_route(node: Node) -> None:
    answer = node.http.post("/v1/audio/translations", files={"file": ("a.wav", sound())})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_a_data_url_may_stand_for_the_file(node: Node, expected: Callable[..., str]) -> None:
    data = sound(seed=4)
    url = f"data:audio/wav;base64,{base64.b64encode(data).decode()}"
    for sent in ({"data": FEW | {"file_url": url}}, {"files": {"file_url": (None, url)}, "data": FEW}):
        answer = node.http.post(PATH, **sent)  # type: ignore[arg-type]  # urlencoded, and multipart
        assert answer.json()["text"] == expected(data)
    wrong = node.http.post(PATH, data={"file_url": url.replace("audio/wav", "audio/flac")})
    assert refusal(wrong)[:2] == (400, "file_url")
    assert refusal(node.http.post(PATH, data={"file_url": "data:audio/wav;base64,@"}))[:2] == (400, "file_url")
    large = f"data:audio/wav;base64,{'A' * MAX_AUDIO}"
    assert node.http.post(PATH, data={"file_url": large}).status_code == 413
    status, param, message = refusal(node.http.post(PATH, data={"file_url": "https://example.org/a.wav"}))
    assert (status, param) == (400, "file_url")
    assert "--allow-media-from" in message


def test_an_address_is_fetched_where_that_is_allowed_but_not_from_here(folder: Path) -> None:
    """That a fetcher gets what is at public addresses is tested with it; here, that it is the one which is asked."""

    class Files(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

    asked: list[str] = []
    server = HTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_port
    try:
        with served(folder, "--allow-media-from", f"127.0.0.1:{port}") as node:
            answer = node.http.post(PATH, data={"file_url": f"http://127.0.0.1:{port}/a.wav"})
            status, param, message = refusal(answer)
            assert (status, param, asked) == (400, "file_url", [])
            assert "not at a public host" in message
    finally:
        server.shutdown()
        server.server_close()


def test_deadlines_pass_and_clients_leave(node: Node) -> None:
    late = post(node, sound(seconds=20), timeout="0.001")
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    long = {"file": ("a.wav", sound(seconds=20))}
    with (
        httpx2.Client(base_url=node.url, trust_env=False) as leaving,
        leaving.stream("POST", PATH, files=long, data={"stream": "true"}) as response,
    ):
        assert next(response.iter_raw())
    until(lambda: node.metric("vllm:num_requests_running", model_name="ear") == 0, 20)


def test_half_an_upload_is_no_request(node: Node) -> None:
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        'Content-Length: 400000\r\n\r\n--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )
    with socket.create_connection(("127.0.0.1", node.port)) as connection:
        connection.sendall(head.encode() + b"x" * 1000)
    assert post(node).status_code == 200


def test_transcriptions_are_counted(node: Node) -> None:
    def counted() -> float:
        return node.metric("vllm:request_success_total", model_name="ear", finished_reason="length")

    before = counted()
    assert post(node, max_tokens="1").status_code == 200
    assert counted() == before + 1


def test_the_description_has_the_form_and_all_answers(node: Node) -> None:
    described = node.http.get("/openapi.json").json()["paths"][PATH]["post"]
    form = described["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert form["file"] == {"type": "string", "format": "binary"}
    assert {"file_url", "language", "response_format", "temperature", "stream"} <= form.keys()
    assert described["responses"]["200"]["content"].keys() == {"application/json", "text/event-stream", "text/plain"}
