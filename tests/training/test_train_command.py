"""`ostro train` end to end, as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ostro.cli import build_app
from ostro.core.errors import ConfigError, MissingExtraError
from ostro.models.layers.context import DenseContext
from ostro.weights.loader import load_model


def train(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ostro", "train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_recipe_becomes_a_checkpoint_that_loads(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text("accuracy {intent_accuracy:.2f}")
    done = train(
        str(recipe_file),
        "--data",
        str(data),
        "--out",
        str(tmp_path / "out"),
        "--card",
        str(card),
        "--threads",
        "1",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    folder = Path(figures["checkpoint"])
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors", "tekken.json", "README.md"}
    assert (folder / "README.md").read_text() == f"accuracy {figures['intent_accuracy']:.2f}"
    assert (tmp_path / "out" / "loss.png").read_bytes().startswith(b"\x89PNG")
    model = load_model(folder)
    assert model.embed.weight.dtype == torch.bfloat16
    with torch.inference_mode():
        assert torch.isfinite(model(torch.tensor([1, 50, 60]), torch.arange(3), DenseContext()).float()).all()


def test_what_is_written_last_is_looked_for_first(
    recipe_file: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["train", str(recipe_file), "--data", str(data), "--out", str(tmp_path / "out")]
    missing = CliRunner().invoke(build_app(), [*arguments, "--card", str(tmp_path / "card.md")])
    assert isinstance(missing.exception, ConfigError)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    blind = CliRunner().invoke(build_app(), arguments)
    assert isinstance(blind.exception, MissingExtraError)
    assert not list((tmp_path / "out").glob("*.jsonl")), "nothing was trained"


def test_errors_are_one_line(recipe_file: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = train(str(recipe_file), "--data", str(empty), "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert done.stderr.strip().startswith("error: ")
    assert "--data" in done.stderr
    assert "Traceback" not in done.stderr
