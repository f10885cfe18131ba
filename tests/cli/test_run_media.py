"""`ostro run --image --audio --series`, with models that sense and models that do not."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from hearing import sound, write_hearing_model
from ostro.cli import build_app
from ostro.core.errors import InvalidRequestError
from ostro.core.sampling import SamplingParams
from ostro.engine.llm import LLM
from seeing import write_seeing_model, write_text_model
from tiny_unified import write_unified_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run-media") / "eye"
    write_seeing_model(folder)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = []
    for seed in range(2):
        values = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        path = tmp_path / f"a picture {seed}.png"  # with spaces, as people name them
        Image.fromarray(values).save(path)
        paths.append(path)
    return paths


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(build_app(), ["run", *map(str, arguments)])


def content(paths: Sequence[Path], text: str) -> list[dict[str, object]]:
    parts: list[dict[str, object]] = [{"type": "image_url", "image_url": path.resolve().as_uri()} for path in paths]
    return [*parts, {"type": "text", "text": text}]


def test_images_stand_before_what_is_asked(folder: Path, pictures: list[Path]) -> None:
    done = run(folder, "what is seen", "--image", pictures[0], "--image", pictures[1], "--json", "--max-tokens", "8")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    messages = [{"role": "user", "content": content(pictures, "what is seen")}]
    (expected,) = LLM(folder).chat(messages, SamplingParams(temperature=0, max_tokens=8))
    assert answer["token_ids"] == expected.token_ids
    assert answer["usage"]["prompt_tokens"] == expected.usage.prompt_tokens
    assert answer["labels"] == []
    alone = run(folder, "what is seen", "--json", "--max-tokens", "8")
    assert json.loads(alone.stdout)["usage"]["prompt_tokens"] < answer["usage"]["prompt_tokens"] - 10
    streamed = run(folder, "what is seen", "--image", pictures[0], "--image", pictures[1], "--max-tokens", "8")
    assert streamed.stdout.rstrip("\n") == expected.text.rstrip("\n")


def test_labels_are_told(pictures: list[Path], tmp_path: Path) -> None:
    """Of a model that has a head for them."""
    folder = tmp_path / "unified"
    write_unified_model(folder)
    done = run(folder, "what is seen", "--image", pictures[0], "--json", "--max-tokens", "4")
    assert done.exit_code == 0, done.output
    messages = [{"role": "user", "content": content(pictures[:1], "what is seen")}]
    (expected,) = LLM(folder).chat(messages, SamplingParams(temperature=0, max_tokens=4))
    told = [(one["label"], pytest.approx(one["score"], abs=1e-5)) for one in json.loads(done.stdout)["labels"]]
    assert told == [(one.label, one.score) for one in expected.labels]
    assert told


def test_what_cannot_be_seen_is_refused(folder: Path, pictures: list[Path], tmp_path: Path) -> None:
    heard = tmp_path / "a.wav"
    heard.write_bytes(sound())
    broken = tmp_path / "b.png"
    broken.write_bytes(pictures[0].read_bytes()[:60])
    text = io.StringIO()
    for arguments, match in (
        (("--audio", str(heard)), "takes text and images"),
        (("--image", str(broken)), "damaged or cut short|no image"),
        (("--image", str(heard)), "no image that can be read"),
        (("--image", str(pictures[0]), "--raw"), "without --raw"),
    ):
        done = run(folder, "what is seen", *arguments)
        assert done.exit_code != 0
        assert isinstance(done.exception, InvalidRequestError | SystemExit), text.getvalue()
        said = str(done.exception) + done.output
        assert any(word in said for word in match.split("|")), said
    assert run(folder, "x", "--image", tmp_path / "none.png").exit_code == 2


def test_a_model_of_texts_takes_neither(pictures: list[Path], tmp_path: Path) -> None:
    folder, heard = tmp_path / "texts", tmp_path / "a.wav"
    write_text_model(folder)
    heard.write_bytes(sound())
    for option, path in (("--image", pictures[0]), ("--audio", heard)):
        done = run(folder, "what is it", option, path)
        assert isinstance(done.exception, InvalidRequestError)
        assert "takes text only" in str(done.exception)


def test_sounds_are_heard_in_their_order(tmp_path: Path) -> None:
    folder = tmp_path / "ear"
    write_hearing_model(folder)
    paths = [tmp_path / "a.wav", tmp_path / "b + c.mp3"]
    paths[0].write_bytes(sound("wav", seed=1))
    paths[1].write_bytes(sound("mp3", seconds=2, rate=44_100, channels=2, seed=2))
    done = run(folder, "what is said", "--audio", paths[0], "--audio", paths[1], "--json", "--max-tokens", "8")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    files = [base64.b64encode(path.read_bytes()).decode() for path in paths]
    parts = [{"type": "input_audio", "input_audio": {"data": data}} for data in files]
    llm = LLM(folder)

    def said(*content: object) -> tuple[list[int], int]:
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": "what is said"}]}]
        (output,) = llm.chat(messages, SamplingParams(temperature=0, max_tokens=8))
        return output.token_ids, output.usage.prompt_tokens

    expected = said(*parts)
    assert (answer["token_ids"], answer["usage"]["prompt_tokens"]) == expected
    assert said(*reversed(parts)) != expected, "the order matters"


def test_series_are_followed(tmp_path: Path) -> None:
    """By a model that knows what series do."""
    paths = [tmp_path / "rising.csv", tmp_path / "falling.json"]
    values = [round(20 + 0.5 * step + 0.1 * (step % 3), 3) for step in range(80)]
    paths[0].write_text("temperature\n" + "\n".join(map(str, values)))
    paths[1].write_text(json.dumps(values[::-1]))
    for path, told in zip(paths, ("rising", "falling"), strict=True):
        done = run("ostro-nano", "what does the series do", "--series", path, "--json")
        assert done.exit_code == 0, done.output
        answer = json.loads(done.stdout)
        assert answer["text"] == told
        assert answer["labels"][0]["label"] == told
        assert answer["usage"]["prompt_tokens"] > 80 / 4


def test_what_is_no_series_is_refused(folder: Path, tmp_path: Path) -> None:
    table, binary = tmp_path / "table.csv", tmp_path / "numbers.bin"
    table.write_text("time,value\n1,2\n")
    binary.write_bytes(b"\xff\xfe\x00\x01")
    good = tmp_path / "good.csv"
    good.write_text("1\n2\n")
    for path, words in (
        (table, "line 2 has 2 numbers or columns"),
        (binary, "is no text in UTF-8"),
        (good, "takes text and images"),
    ):
        done = run(folder, "what does it do", "--series", path)
        assert isinstance(done.exception, InvalidRequestError)
        assert words in str(done.exception)
