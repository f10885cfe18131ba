"""A repository to pull, a home to pull it into, and no inherited settings."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_TOKEN", "OSTRO_MIRRORS", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OSTRO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """Both weight formats, a pickle, an index, a tokenizer: what such repositories hold. Contents are random bytes."""
    folder = tmp_path / "repo"
    folder.mkdir()
    draw = random.Random(7)
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name in (*shards, "consolidated.safetensors", "pytorch_model.bin"):
        (folder / name).write_bytes(draw.randbytes(700_000))
    (folder / "tekken.json").write_bytes(draw.randbytes(5000))
    (folder / "config.json").write_text('{"model_type": "mistral"}')
    (folder / "params.json").write_text('{"dim": 8}')
    (folder / "empty.json").write_text("")
    index = {"weight_map": {"a": shards[0], "b": shards[1], "c": shards[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "consolidated.safetensors.index.json").write_text("{}")
    (folder / "README.md").write_text("# a model")
    (folder / ".gitattributes").write_text("*.safetensors lfs")
    return folder
