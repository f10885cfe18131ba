"""The unified architecture to a quantised folder: taken whole, calibrated with text and with what else is run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from ostro.compression.quantise import Texts, quantise_folder
from ostro.compression.recipe import Recipe, Rule
from ostro.core.errors import ConfigError
from ostro.models.layers.context import DenseContext
from ostro.models.layers.decoder import Decoder
from ostro.models.ostro.config import MODALITIES
from ostro.models.ostro.model import UnifiedDecoder
from ostro.weights.loader import load_model
from tiny_unified import write_unified_model

IMAGE = MODALITIES.index("image")


def rows(count: int, length: int, seed: int) -> torch.Tensor:
    return torch.randint(44, 200, (count, length), generator=torch.Generator().manual_seed(seed))


TEXTS = Texts(rows(6, 64, 1), rows(3, 48, 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unified") / "dense"
    write_unified_model(folder)
    return folder


def run(model: Decoder, seed: int = 3) -> torch.Tensor:
    """Hidden states of text around rows of an image."""
    generator = torch.Generator().manual_seed(seed)
    embedded_TD = torch.randn(24, model.config.hidden_size, generator=generator)
    senses_T = torch.zeros(24, dtype=torch.int64)
    senses_T[4:14] = IMAGE
    context = DenseContext(1, 0.0, None, senses_T)
    hidden_TD: torch.Tensor = model(embedded_TD, torch.arange(24), context)
    return hidden_TD


def distance(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).norm() / left.norm())


def test_eight_bits_give_nearly_the_same_of_everything(folder: Path, tmp_path: Path) -> None:
    quantise_folder(folder, tmp_path / "out", Recipe(scheme="int8"), TEXTS)
    dense, found = load_model(folder), load_model(tmp_path / "out")
    assert isinstance(dense, UnifiedDecoder)
    assert isinstance(found, UnifiedDecoder)
    assert found.quantised
    assert found.unified == dense.unified
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 1
    with torch.inference_mode():
        expected_TD, hidden_TD = run(dense), run(found)
        # A level of the gate that turns is no small change, so rows are compared one by one.
        errors_T = (expected_TD - hidden_TD).norm(dim=1) / expected_TD.norm(dim=1)
        assert errors_T.median() < 0.05
        assert distance(dense.label_logits(expected_TD)[0], found.label_logits(expected_TD)[0]) < 0.02
        assert distance(dense.pooled(expected_TD[0]), found.pooled(expected_TD[0])) < 0.02
    for (name, weight), written in zip(dense.encoders.named_parameters(), found.encoders.parameters(), strict=True):
        assert distance(weight, written.float()) < 0.01, name


def test_what_text_never_reaches_is_calibrated_by_what_is_run_besides(folder: Path, tmp_path: Path) -> None:
    recipe = Recipe(scheme="int8", rounding="gptq", layers=(Rule("*router*", scheme="dense"),))

    def roundings(texts: Texts, out: str) -> dict[str, str]:
        report = quantise_folder(folder, tmp_path / out, recipe, texts)
        assert report.calibration_tokens == 6 * 64
        return {matrix.name: matrix.rounding for matrix in report.matrices}

    alone = roundings(TEXTS, "alone")
    assert alone["model.layers.0.self_attn.q_proj.weight"] == "gptq"
    assert alone["model.layers.0.self_attn.router.weight"] == ""
    assert alone["model.adapters.image.down.weight"] == "nearest"
    shown = roundings(dataclasses.replace(TEXTS, exercise=run), "shown")  # type: ignore[arg-type]  # its result is dropped
    assert shown["model.adapters.image.down.weight"] == "gptq"
    assert shown["label_head.weight"] == "nearest"


def test_scales_cannot_be_folded(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no scales are folded there"):
        quantise_folder(folder, tmp_path / "out", Recipe(scheme="int8", scaling="awq"), TEXTS)
    assert not (tmp_path / "out").exists()
