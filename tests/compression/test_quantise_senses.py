"""Quantised folders of models that see and hear: their encoders come along, under names that load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tiny_checkpoints
from ostro.compression.quantise import Texts, quantise_folder
from ostro.compression.recipe import Recipe
from ostro.core.errors import ConfigError
from ostro.weights.loader import load_model


@pytest.mark.parametrize("kind", ["llava", "mistral3-mistral", "mistral3-ministral3", "voxtral"])
def test_encoders_come_along_as_they_are(kind: str, tmp_path: Path) -> None:
    folder = tiny_checkpoints.make(kind, tmp_path / "dense").folder
    quantise_folder(folder, tmp_path / "out", Recipe(scheme="int8"), Texts())
    dense, found = load_model(folder), load_model(tmp_path / "out")
    assert found.quantised
    expected = dict(dense.encoders.named_parameters())
    written = dict(found.encoders.named_parameters())
    assert expected.keys() == written.keys() != set()
    for name, weight in expected.items():
        assert torch.equal(weight, written[name]), name


def test_a_native_folder_that_sees_is_refused_before_anything_runs(tmp_path: Path) -> None:
    tiny = tiny_checkpoints.make("llava", tmp_path / "dense")
    native = tmp_path / "native"
    vision = {name: tiny_checkpoints.VISION[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    vision |= {"num_attention_heads": 2, "patch_size": 8, "image_size": 64, "rope_theta": 1e4}
    tiny_checkpoints.to_native(tiny, native, {"vision_encoder": vision})
    with pytest.raises(ConfigError, match="quantised on load only"):
        quantise_folder(native, tmp_path / "out", Recipe(scheme="int8"), Texts())
    assert not (tmp_path / "out").exists()
