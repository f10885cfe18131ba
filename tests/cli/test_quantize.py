"""`ostro quantize` from the command line: a folder that answers, a report, and errors that help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from seeing import write_text_model

SMALL = ("--windows", "4", "--length", "64")


def ostro(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ostro", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


def test_the_embedded_model_in_four_bits_answers_as_before(tmp_path: Path) -> None:
    out = tmp_path / "nano"
    enough = ("--windows", "16", "--length", "128")  # fewer tokens than a layer has inputs calibrate nothing
    done = ostro("quantize", "ostro-nano", "--out", out, "--method", "gptq", "--json", *enough)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["calibration_tokens"] == 16 * 128
    assert report["error_of"] == "outputs"
    assert 4.5 <= report["bits_per_weight"] < 4.6
    assert report["perplexity"]["after"] < 1.05 * report["perplexity"]["before"]
    assert {matrix["scheme"] for matrix in report["matrices"]} == {"int4"}
    assert json.loads((out / "quantization.json").read_text()) == report
    answer = ostro("run", out, "I am still waiting on my card?", "--max-tokens", "8", "--json")
    assert json.loads(answer.stdout)["text"] == "card_arrival"
    again = ostro("quantize", "ostro-nano", "--out", out)
    assert again.returncode == 1
    assert "not empty" in again.stderr


def test_a_recipe_and_a_text_of_ones_own(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text('scheme: int4\nscaling: awq\nlayers:\n  - {match: "*.down_proj", scheme: int8}\n')
    chats = tmp_path / "chats.jsonl"
    lines = [
        {"messages": [{"role": "user", "content": "Where is my card?"}, {"role": "assistant", "content": "Here."}]},
        {"text": "The card was lost in the post. " * 20},
        {"messages": [{"role": "user", "content": "How do I change my PIN? " * 20}]},
    ]
    chats.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    text = tmp_path / "held-out.txt"
    text.write_text("What is the fee for a transfer? " * 40)
    write_text_model(
        tmp_path / "model", hidden_size=64, intermediate_size=96
    )  # scales are folded into dense decoders only
    command = ("quantize", tmp_path / "model", "--out", tmp_path / "out", "--recipe", recipe, "--calibration", chats)
    done = ostro(*command, "--evaluation", text, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "bits a weight" in done.stdout
    assert "perplexity of" in done.stdout
    report = json.loads((tmp_path / "out" / "quantization.json").read_text())
    schemes = {matrix["name"]: matrix["scheme"] for matrix in report["matrices"]}
    assert schemes["model.layers.0.mlp.down_proj.weight"] == "int8"
    assert schemes["model.layers.0.mlp.up_proj.weight"] == "int4"
    assert any(matrix["scaled"] for matrix in report["matrices"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "magic"], "no method 'magic'"),
        (["--scheme", "int3"], "names no scheme"),
        (["--scheme", "int4-g96"], "groups of 96 do not divide"),
        (["--recipe", "typo.yaml"], "schema"),
        (["--recipe", "none.yaml"], "cannot be read"),
        (["--method", "gptq", "--calibration", "empty.txt"], "text is empty"),
        (["--method", "gptq", "--calibration", "broken.jsonl"], "line 2"),
        (["--method", "gptq", "--calibration", "short.txt"], "none is left to measure with"),
        (["--length", "9999999"], "more than the model's context of 1024"),
        (["--method", "gptq", "--calibration", "binary.txt"], "cannot be read"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "typo.yaml").write_text("schema: int4\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("Where is my card?")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "broken.jsonl").write_text('{"text": "fine"}\n{"messages": 3}\n')
    files = {path.name: str(path) for path in tmp_path.iterdir()} | {"none.yaml": str(tmp_path / "none.yaml")}
    done = ostro("quantize", "ostro-nano", "--out", tmp_path / "out", *(files.get(word, word) for word in arguments))
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("*.part"))
    assert not list(tmp_path.glob(".*.part"))


def test_columns_can_be_sorted_and_threads_and_the_folder_be_chosen(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("quantize", "ostro-nano", "--out", out, "--correlated", "--threads", "1", *SMALL)
    assert ostro(*command, "--scheme", "int8-g32").returncode == 0
    report = json.loads((out / "quantization.json").read_text())
    assert any(matrix["reordered"] for matrix in report["matrices"])
    again = ostro(*command, "--scheme", "int4", "--force")
    assert again.returncode == 0, again.stderr
    assert {matrix["scheme"] for matrix in json.loads((out / "quantization.json").read_text())["matrices"]} == {"int4"}


def test_threads_that_no_machine_has_are_a_wrong_usage(tmp_path: Path) -> None:
    for command in (("quantize", "ostro-nano", "--out", tmp_path / "out"), ("bench",), ("serve",)):
        done = ostro(*command, "--threads", "1000000")
        assert done.returncode == 2
        assert "1024" in done.stderr


def test_one_window_measures_where_nothing_calibrates(tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("Where is my card? " * 5)
    done = ostro("quantize", "ostro-nano", "--out", tmp_path / "out", "--calibration", text)
    assert done.returncode == 0, done.stderr
    assert "perplexity of" in done.stdout
