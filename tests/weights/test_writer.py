"""What we write, we and the reference implementation load back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tampering import IDS, logits

import tiny_checkpoints
from ostro.core.errors import ConfigError
from ostro.weights.folder import open_folder
from ostro.weights.loader import load_model
from ostro.weights.writer import save_checkpoint

KINDS = ["mistral-v0.1", "mistral-v0.3", "mistral-nemo", "mistral-tied"]


def reference_logits(folder: Path) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        out: torch.Tensor = model(input_ids=IDS[None]).logits[0]
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_round_trip(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    tiny = tiny_checkpoints.make(kind, tmp_path / "made")
    model = load_model(tiny.folder)
    save_checkpoint(model, tmp_path / "written", dtype=dtype)
    again = load_model(tmp_path / "written")
    for before, after in zip(model.parameters(), again.parameters(), strict=True):
        assert after.dtype == dtype
        assert torch.equal(before.to(dtype), after)
    expected = dataclasses.replace(
        open_folder(tiny.folder).config,
        dtype=str(dtype).removeprefix("torch."),
        tie_word_embeddings=kind == "mistral-tied",
    )
    assert open_folder(tmp_path / "written").config == expected
    ours = logits(load_model(tmp_path / "written", dtype=torch.float32))
    torch.testing.assert_close(ours, reference_logits(tmp_path / "written"), atol=1e-4, rtol=0)
    if dtype == torch.float32:
        assert torch.equal(ours, logits(model))
        torch.testing.assert_close(ours, tiny.reference_logits(IDS.tolist()), atol=1e-4, rtol=0)


def test_tensors_keep_the_references_names(tmp_path: Path) -> None:
    tiny = tiny_checkpoints.make("mistral-v0.3", tmp_path / "made")
    save_checkpoint(load_model(tiny.folder), tmp_path / "written", dtype=torch.float32)
    written, made = (load_file(tmp_path / name / "model.safetensors") for name in ("written", "made"))
    assert written.keys() == made.keys()
    assert all(torch.equal(written[name], made[name]) for name in made)


@pytest.mark.parametrize(("ids", "stored"), [((7,), 7), ((7, 9), [7, 9]), ((), 2)])
def test_end_of_sequence_ids_are_kept(tmp_path: Path, ids: tuple[int, ...], stored: object) -> None:
    tiny = tiny_checkpoints.make("mistral-v0.3", tmp_path / "made")
    model = load_model(tiny.folder)
    model.config = dataclasses.replace(model.config, eos_token_ids=ids)
    save_checkpoint(model, tmp_path / "written")
    assert json.loads((tmp_path / "written" / "config.json").read_text())["eos_token_id"] == stored


@pytest.mark.parametrize("kind", ["ministral", "ministral3", "ministral3-tied"])
def test_windows_and_scaled_positions_are_written_as_their_model_types(tmp_path: Path, kind: str) -> None:
    model = load_model(tiny_checkpoints.make(kind, tmp_path / "made").folder)
    save_checkpoint(model, tmp_path / "written", dtype=torch.float32)
    assert load_model(tmp_path / "written").config == model.config


def test_what_no_model_type_can_say_is_not_written(tmp_path: Path) -> None:
    model = load_model(tiny_checkpoints.make("ministral3", tmp_path / "made").folder)
    model.config = dataclasses.replace(model.config, windows=(16, 0, 16))
    with pytest.raises(ConfigError, match="no Hugging Face model type"):
        save_checkpoint(model, tmp_path / "written")
