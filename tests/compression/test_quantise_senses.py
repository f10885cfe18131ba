"""Quantised folders of models that see and hear: their encoders come along, under names that load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_checkpoints
from ostro.compression.quantise import Texts, quantise_folder
from ostro.compression.recipe import Recipe
from ostro.core.errors import ConfigError
from ostro.weights.loader import load_model
from ostro.weights.writer import save_checkpoint


@pytest.mark.parametrize("kind", ["llava", "mistral3-mistral", "mistral3-ministral3", "voxtral"])
def test_encoders_come_along_as_they_are(kind: str, tmp_path: Path) -> None:
    folder = tiny_checkpoints.make(kind, tmp_path / "dense").folder
    quantise_folder(folder, tmp_path / "out", Recipe(scheme="int8"), Texts())
    dense, found = load_model(folder), load_model(tmp_path / "out")
    assert found.quantised
    expected = dict(dense.encoders.named_parameters())
    written = dict(found.encoders.named_parameters())
    assert expected.keys() == written.keys() != set()
    assert len(list((tmp_path / "out").glob("*.safetensors"))) < 30
    for name, weight in expected.items():
        assert torch.equal(weight, written[name]), name


@pytest.mark.parametrize("kind", ["llava", "mistral3-mistral"])
def test_native_folders_that_see_become_hugging_face_ones(kind: str, tmp_path: Path) -> None:
    """Pixtral 12B and Small 3.1 in the layout that Mistral publishes."""
    tiny = tiny_checkpoints.make(kind, tmp_path / "dense")
    tiny_checkpoints.to_native(tiny, tmp_path / "native", {"rope_theta": 1e4, "vision_encoder": native_vision(kind)})
    quantise_folder(tmp_path / "native", tmp_path / "out", Recipe(scheme="int8"), Texts())
    dense, found = load_model(tmp_path / "native"), load_model(tmp_path / "out")
    assert found.quantised
    assert dense.config.encoders == found.config.encoders != ()
    assert found.config.architecture == kind.partition("-")[0]
    for (name, weight), written in zip(dense.encoders.named_parameters(), found.encoders.parameters(), strict=True):
        assert torch.equal(weight, written), name


@pytest.mark.parametrize("kind", ["llava", "mistral3-mistral"])
def test_models_that_see_are_written_as_transformers_reads_them(kind: str, tmp_path: Path) -> None:
    tiny = tiny_checkpoints.make(kind, tmp_path / "dense")
    save_checkpoint(load_model(tiny.folder), tmp_path / "out", dtype=torch.float32)
    again = type(tiny.reference).from_pretrained(tmp_path / "out", dtype=torch.float32)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        expected, found = tiny.reference(input_ids=ids).logits, again(input_ids=ids).logits
    torch.testing.assert_close(found, expected)
    expected_weights = dict(tiny.reference.named_parameters())
    for name, weight in again.named_parameters():
        assert torch.equal(weight, expected_weights[name]), name


def test_a_native_folder_that_hears_is_refused_before_anything_runs(tmp_path: Path) -> None:
    native = tmp_path / "native"
    tiny_checkpoints.to_native(tiny_checkpoints.make("mistral-v0.3", tmp_path / "dense"), native, {"rope_theta": 1e6})
    hears = native_audio_params()
    params = json.loads((native / "params.json").read_text()) | {"multimodal": {"whisper_model_args": hears}}
    (native / "params.json").write_text(json.dumps(params))
    with pytest.raises(ConfigError, match="encoder other than Pixtral's"):
        quantise_folder(native, tmp_path / "out", Recipe(scheme="int8"), Texts())
    assert not (tmp_path / "out").exists()


def native_vision(kind: str) -> dict[str, Any]:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size")
    shape = {name: tiny_checkpoints.VISION[name] for name in names} | {"rope_theta": 1e4}
    if kind == "llava":
        return shape | {"patch_size": 8, "adapter_bias": True}
    merged = {"mm_projector_id": "patch_merge", "spatial_merge_size": 2, "add_pre_mm_projector_layer_norm": True}
    return shape | merged | {"patch_size": 14, "adapter_bias": False}


def native_audio_params() -> dict[str, Any]:
    encoder = {"dim": 32, "n_layers": 1, "head_dim": 16, "hidden_dim": 64, "n_heads": 2, "vocab_size": 10}
    return {"encoder_args": {**encoder, "max_source_positions": 40}, "downsample_args": {"downsample_factor": 4}}
