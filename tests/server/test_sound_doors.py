"""Sounds through every API of a live node that serves a model which hears, a tiny random one."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import openai
import pytest
from mistral_common.protocol.instruct.chunk import AudioChunk, AudioURLChunk, TextChunk
from mistral_common.protocol.instruct.messages import UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.transcription.request import TranscriptionRequest
from mistral_common.tokens.tokenizers.audio import Audio
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from nodes import Node
from real_nodes import served

from hearing import CHUNK_TOKENS, FORMATS, sound, write_hearing_model
from ostro.core.errors import InvalidRequestError
from ostro.core.sampling import SamplingParams
from ostro.engine.llm import LLM
from ostro.media.audio import read_sound
from ostro.media.inline import split_inline
from ostro.media.parts import MediaSource, decode_data_url
from ostro.media.senses import read_senses
from ostro.server.media_reading import MediaReader
from ostro.tokenizer import load_tokenizer
from ostro.web.fetching import Fetched

ASKED = "what is said"
TEXT = {"type": "text", "text": ASKED}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hearing") / "ear"
    write_hearing_model(folder)
    return folder


@pytest.fixture(scope="module")
def node(folder: Path) -> Iterator[Node]:
    with served(folder) as running:
        yield running


def plain(data: bytes) -> str:
    return base64.b64encode(data).decode()


def url(data: bytes, mime: str = "audio/wav") -> str:
    return f"data:{mime};base64,{plain(data)}"


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def sound_part(data: bytes, kind: str = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": plain(data), "format": kind}}


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(folder, threads=1)


@pytest.fixture(scope="module")
def expected(llm: LLM) -> Callable[..., tuple[str, int]]:
    """What the model says to these parts, and how many tokens it was asked with, in this process."""

    def answer(*parts: Any) -> tuple[str, int]:
        (output,) = llm.chat(user(*parts), SamplingParams(temperature=0, max_tokens=12))
        return output.text, output.usage.prompt_tokens

    return answer


def shapes(data: bytes) -> dict[str, tuple[str, dict[str, Any]]]:
    """The same question about the same sound in every way to ask it."""
    chat, options = "/v1/chat/completions", {"temperature": 0, "max_tokens": 12}
    return {
        "openai": (chat, {"messages": user(sound_part(data), TEXT), **options}),
        "mistral": (chat, {"messages": user({"type": "input_audio", "input_audio": plain(data)}, TEXT), **options}),
        "data url as input": (
            chat,
            {"messages": user({"type": "input_audio", "input_audio": {"data": url(data)}}, TEXT), **options},
        ),
        "audio_url": (
            chat,
            {"messages": user({"type": "audio_url", "audio_url": {"url": url(data)}}, TEXT), **options},
        ),
        "plain audio_url": (chat, {"messages": user({"type": "audio_url", "audio_url": url(data)}, TEXT), **options}),
        "inline": (
            chat,
            {"messages": [{"role": "user", "content": f"<audio>{plain(data)}</audio>{ASKED}"}], **options},
        ),
        "inline url": (
            chat,
            {"messages": user({"type": "text", "text": f"<audio>{url(data)}</audio> {ASKED}"}), **options},
        ),
        "responses": (
            "/v1/responses",
            {
                "input": user(sound_part(data), {"type": "input_text", "text": ASKED}),
                "temperature": 0,
                "max_output_tokens": 16,
            },
        ),
        "infer": ("/v1/infer", {"inputs": {"text": ASKED, "audio": plain(data)}, **options}),
        "infer, bare": ("/v1/infer", {"text": ASKED, "audio": plain(data), **options}),
        "infer url": ("/v1/infer", {"inputs": {"audio": url(data), "text": ASKED}, **options}),
        "infer inline": ("/v1/infer", {"inputs": {"text": f"<audio>{plain(data)}</audio> {ASKED}"}, **options}),
    }


def said(body: dict[str, Any]) -> str:
    if "output" in body:
        return "".join(part["text"] for item in body["output"] for part in item["content"])
    return str(body["choices"][0]["message"]["content"] if "choices" in body else body["text"])


@pytest.mark.parametrize("shape", shapes(b""))
def test_every_api_has_the_model_hear_the_same(
    node: Node, expected: Callable[..., tuple[str, int]], shape: str
) -> None:
    texts = set()
    for seed in (0, 1):
        data = sound(seed=seed)
        path, body = shapes(data)[shape]
        answer = node.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        text, tokens = expected(sound_part(data), TEXT)
        assert said(answer.json()).startswith(text)
        usage = answer.json()["usage"]
        assert usage.get("prompt_tokens", usage.get("input_tokens")) == tokens
        texts.add(text)
    assert len(texts) == 2, "other sounds, other answers"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (44_100, 2)])
def test_every_format_is_heard(
    node: Node, expected: Callable[..., tuple[str, int]], name: str, rate: int, channels: int
) -> None:
    part = sound_part(sound(name, 1.0, rate, channels), name)
    answer = node.http.post(
        "/v1/chat/completions", json={"messages": user(part, TEXT), "temperature": 0, "max_tokens": 12}
    )
    text, tokens = expected(part, TEXT)
    assert (said(answer.json()), answer.json()["usage"]["prompt_tokens"]) == (text, tokens)


def test_sounds_and_text_in_one_batch(node: Node, expected: Callable[..., tuple[str, int]]) -> None:
    """Together or alone, each has its own answer."""
    asked = [(TEXT,), (sound_part(sound(seed=2)), TEXT), (sound_part(sound(seed=3, seconds=3)),), (TEXT, TEXT)]

    def ask(parts: tuple[Any, ...]) -> str:
        body = {"messages": user(*parts), "temperature": 0, "max_tokens": 12}
        return said(node.http.post("/v1/chat/completions", json=body).raise_for_status().json())

    with ThreadPoolExecutor(len(asked) * 3) as pool:
        answers = list(pool.map(ask, asked * 3))
    assert answers == [expected(*parts)[0] for parts in asked] * 3


def test_conversations_hold_several_sounds_and_stream(node: Node) -> None:
    messages = [
        *user(TEXT, sound_part(sound(seed=1))),
        {"role": "assistant", "content": "a river"},
        *user(sound_part(sound("flac", seed=2), "flac"), sound_part(sound(seed=1)), TEXT),
    ]
    client = openai.OpenAI(base_url=f"{node.url}/v1", api_key="none")
    options: dict[str, Any] = {"model": "ear", "messages": messages, "temperature": 0, "max_tokens": 12}
    whole = client.chat.completions.create(**options)
    streamed = "".join(
        chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(stream=True, **options)
    )
    assert streamed == whole.choices[0].message.content


def test_a_sound_is_encoded_once(node: Node) -> None:
    def counted() -> tuple[float, float]:
        return node.metric("vllm:mm_cache_queries_total"), node.metric("vllm:mm_cache_hits_total")

    before = counted()
    for question in ("what is said", "what river", "what bridge"):
        asked = {"type": "text", "text": question}
        body = {"messages": user(asked, sound_part(sound(seed=77)), TEXT), "max_tokens": 1}
        assert node.http.post("/v1/chat/completions", json=body).status_code == 200
    after = counted()
    assert (after[0] - before[0], after[1] - before[1]) == (3, 2)


def test_what_a_model_senses_is_told(node: Node) -> None:
    capabilities = node.http.get("/v1/models/ear").json()["capabilities"]
    assert (capabilities["vision"], capabilities["audio"]) == (False, True)


@pytest.mark.parametrize("seconds", [0.1, 0.4, 1.0, 2.05])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_prompts_have_mistral_common_s_tokens(folder: Path, llm: LLM, seconds: float, rate: int) -> None:
    """Its own encoders decode, resample and count; ours has no encoder in the tokenizer at all."""
    theirs = MistralTokenizer.from_file(folder / "tekken.json")
    assert theirs.instruct_tokenizer.audio_encoder is not None
    data = sound(seconds=seconds, rate=rate)
    chunks = {
        "input_audio": (AudioChunk(input_audio=plain(data)), {"type": "input_audio", "input_audio": plain(data)}),
        "audio_url": (AudioURLChunk(audio_url=url(data)), {"type": "audio_url", "audio_url": {"url": url(data)}}),
    }
    for their_chunk, our_part in chunks.values():
        for their_parts, our_parts in (
            ([their_chunk], [our_part]),
            ([their_chunk, TextChunk(text=ASKED)], [our_part, TEXT]),
            ([TextChunk(text=ASKED), their_chunk, their_chunk], [TEXT, our_part, our_part]),
        ):
            request = ChatCompletionRequest(messages=[UserMessage(content=their_parts)])
            tokens = theirs.encode_chat_completion(request).tokens
            (output,) = llm.chat(user(*our_parts), SamplingParams(temperature=0, max_tokens=1))
            assert output.prompt_token_ids == tokens
    settings = read_senses(folder).audio
    assert settings is not None
    heard = read_sound(data, settings)
    ours = load_tokenizer(folder)
    assert ours is not None
    for language in (None, "en", "fr"):
        request = TranscriptionRequest(audio=plain(data), language=language)
        tokenized = theirs.encode_transcription(request)
        prompt = ours.render_transcription(heard.media, language)
        assert prompt.token_ids == tokenized.tokens
        (span,) = prompt.spans
        assert prompt.token_ids[span.start : span.stop] == [24] * span.length
        assert len(tokenized.audios) == 1
    assert heard.seconds == pytest.approx(Audio.from_bytes(data).duration, abs=1e-4)


def test_the_node_counts_those_tokens(node: Node, llm: LLM) -> None:
    parts = (sound_part(sound(seconds=0.9)), TEXT)
    counted = node.http.post("/tokenize", json={"messages": user(*parts)}).json()
    (output,) = llm.chat(user(*parts), SamplingParams(temperature=0, max_tokens=1))
    assert counted["tokens"] == output.prompt_token_ids
    assert counted["tokens"].count(24) == 3 * CHUNK_TOKENS


def bad(match: str, *parts: Any) -> Any:
    return pytest.param(match, parts, id=match)


def ill(data: Any, kind: Any = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": data, "format": kind}}


REFUSED = [
    bad("cut off", ill(plain(sound()[:3000]))),
    bad("declared as 'wav', but its bytes are flac", ill(plain(sound("flac")))),
    bad("declared as 'm4a', which is not supported", ill(plain(sound()), "m4a")),
    bad("its format must be a string", ill(plain(sound()), 3)),
    bad("no sound in a known format", ill(plain(b"hello world"), None)),
    bad("not valid base64", ill("@@@@")),
    bad("must be a data URL or base64", ill("")),
    bad("must be a data URL or base64", {"type": "input_audio", "input_audio": {}}),
    bad("must be a data URL or base64", {"type": "audio_url", "audio_url": {"url": 3}}),
    bad("takes text and sounds", {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}),
    bad("allow-media-from", {"type": "audio_url", "audio_url": "https://example.org/a.wav"}),
    bad("fetches nothing", {"type": "audio_url", "audio_url": "file:///etc/passwd"}),
    bad("more than 32", *[ill(plain(sound(seconds=0.1)))] * 100),
    bad("maximum context length", *[ill(plain(sound(seconds=8)))] * 10),
]


def test_nothing_is_read_beyond_what_fits(node: Node) -> None:
    """What follows the sound that is too long is not looked at any more."""
    parts = (sound_part(sound("flac", 60), "flac"), ill(plain(b"no sound at all, but some text")))
    for path, name in (("/v1/chat/completions", "messages"), ("/v1/responses", "input"), ("/tokenize", "messages")):
        answer = node.http.post(path, json={name: user(*parts)})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (400, name, "context_length_exceeded")
        assert "maximum context length is 512 tokens, but the prompt is at least 750 tokens" in error["message"]


@pytest.mark.parametrize(("match", "parts"), REFUSED)
def test_bad_sounds_are_400_with_a_reason(node: Node, match: str, parts: tuple[Any, ...]) -> None:
    answer = node.http.post("/v1/chat/completions", json={"messages": user(*parts, TEXT), "max_tokens": 4})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert match in error["message"]
    assert str(error["param"]).startswith("messages")


def test_a_sound_where_none_belongs_is_refused(node: Node) -> None:
    for role in ("system", "assistant"):
        messages = [{"role": role, "content": [sound_part(sound())]}, *user(TEXT)]
        answer = node.http.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 4})
        assert answer.status_code == 400
        assert "only a user's message may hold" in answer.json()["error"]["message"]


def test_text_that_only_looks_like_a_sound_stays_text(node: Node) -> None:
    for text in ("<audio>a river</audio>", "<audio></audio>", "what is an <audio> tag", "[AUDIO][BEGIN_AUDIO]"):
        answer = node.chat(text, max_tokens=1)
        assert answer.status_code == 200
        assert answer.json()["usage"]["prompt_tokens"] > 3


@pytest.mark.parametrize("text", ["<audio>" + " " * 200_000, "<audio>" + "A" * 200_000 + "!", "<audio>" * 30_000])
def test_text_that_begins_like_a_sound_is_read_once(folder: Path, text: str) -> None:
    """A search that goes back would take hours."""
    messages = [{"role": "user", "content": text}]
    assert split_inline(messages, read_senses(folder)) == messages


def test_infer_names_its_own_inputs(node: Node) -> None:
    for inputs, match, param in (
        ({"audio": "@@@"}, "not valid base64", "inputs.audio"),
        ({"text": ASKED, "audio": plain(b"no sound at all, but some text")}, "no sound in a known", "inputs.audio"),
        ({"text": ASKED, "image": plain(b"x" * 40)}, "takes text and sounds", "inputs.image"),
        ({"audio": 3}, "non-empty string", "inputs.audio"),
    ):
        answer = node.http.post("/v1/infer", json={"inputs": inputs})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert match in error["message"]
        assert error["param"] == param


def test_the_client_sends_files_and_bytes(node: Node, tmp_path: Path, expected: Callable[..., tuple[str, int]]) -> None:
    from ostro import Client

    file = tmp_path / "a.wav"
    file.write_bytes(sound())
    with Client(api_key="none", endpoint=node.url) as client:
        for audio in (file, sound(), plain(sound()), url(sound())):
            result = client.infer({"text": ASKED, "audio": audio}, max_tokens=12)
            assert result.text == expected(sound_part(sound()), TEXT)[0]


class _Fetcher:
    """Gives what it was told to."""

    def __init__(self, data: bytes, declared: str | None) -> None:
        self._fetched = Fetched(data, declared)

    async def fetch(self, _: str) -> Fetched:
        return self._fetched

    async def close(self) -> None: ...


def test_what_was_fetched_is_held_to_the_limit_of_its_kind(folder: Path) -> None:
    senses = read_senses(folder)
    source = MediaSource((0, 0), "file_url", "audio", url="https://example.org/a.flac")

    def hear(data: bytes, declared: str | None, most: int = 1 << 20) -> float:
        fetcher: Any = _Fetcher(data, declared)
        reader = MediaReader(fetcher, {"audio": most, "image": 10})
        return asyncio.run(reader.hear(source, senses)).seconds

    data = sound("flac", 1.5)
    assert hear(data, "audio/flac") == hear(data, None) == 1.5
    for declared, most, match in (("audio/wav", 1 << 20, "declared as"), (None, 1000, "up to 1000 are taken")):
        with pytest.raises(InvalidRequestError, match=match) as raised:
            hear(data, declared, most)
        assert raised.value.param == "file_url"
        assert (raised.value.status, raised.value.code) == (
            (413, "audio_too_large") if declared is None else (400, "invalid_value")
        )


def test_a_sound_is_held_to_the_limit_however_it_is_sent(folder: Path) -> None:
    """Of its bytes, not of the base64 around them."""
    data, most = sound(), len(sound())
    with served(folder, "--max-audio", f"{most}B") as node:
        for name, (path, body) in shapes(data).items():
            answer = node.http.post(path, json=body)
            assert answer.status_code == 200, (name, answer.text)
        for name, (path, body) in shapes(data + b"\0").items():
            answer = node.http.post(path, json=body)
            assert answer.status_code == 413, (name, answer.text)
            error = answer.json()["error"]
            assert error["code"] == "audio_too_large"
            assert f"{error['param']}: the audio has {most + 1} bytes; up to {most}" in error["message"]


@pytest.mark.parametrize("before", range(5))
@pytest.mark.parametrize("piece", ["%41", "%4", "%", "%zz", "%C3%A9", "é%2B"])
def test_escapes_of_a_long_data_url_are_read_wherever_they_stand(before: int, piece: str) -> None:
    payload = "a" * ((1 << 16) - before) + piece * 4 + "b" * before + piece * 30_000
    assert decode_data_url(f"data:audio/wav,{payload}", "here") == (unquote_to_bytes(payload), "audio/wav")


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({}, "input[0].content[0].input_audio.data"),
        ({"data": 3}, "input[0].content[0].input_audio.data"),
        ({"data": "AAAA", "format": ["wav"]}, "input[0].content[0].input_audio.format"),
    ],
)
def test_sounds_of_the_wrong_kind_are_named(node: Node, given: dict[str, Any], param: str) -> None:
    part = {"type": "input_audio", "input_audio": given}
    answer = node.http.post("/v1/responses", json={"input": user(part)})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
