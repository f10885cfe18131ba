"""Ostro's own quantised folders: what was packed is what is loaded, and what is broken is named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_checkpoints
from ostro.compression.rounding import round_to_nearest
from ostro.core.errors import CheckpointError, ConfigError, OstroError
from ostro.kernels.packed_linear.layout import Codes, Scheme, pack
from ostro.models.layers.formats import Quantised
from ostro.weights.loader import load_model
from ostro.weights.quantised.ostro import VERSION, PackedWeight, quantization_config

SCHEMES = {"q_proj": Scheme(4, 32), "down_proj": Scheme(8, 0), "embed_tokens": Scheme(8, 64), "up_proj": Scheme(4, 64)}
OTHERS = Scheme(4, 32, shifted=True)
DOWN = "model.layers.1.mlp.down_proj"


def scheme_of(name: str) -> Scheme:
    return next((scheme for part, scheme in SCHEMES.items() if part in name), OTHERS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny checkpoint whose matrices are all in panels, of several schemes, one with sorted columns."""
    tiny = tiny_checkpoints.make("mistral-blocks", tmp_path / "model")
    path = tiny.folder / "model.safetensors"
    tensors, weights = {}, {}
    for name, weight in load_file(path).items():
        if weight.dim() == 1:
            tensors[name] = weight
            continue
        order = torch.randperm(weight.shape[1], dtype=torch.int32) if "down_proj" in name else None
        shuffled = weight if order is None else weight[:, order.long()]
        codes = round_to_nearest(shuffled, scheme_of(name), name=name)
        packed = pack(Codes(codes.scheme, codes.codes_OI, codes.scales_OG, codes.shifts_OG, order))
        weights[name] = PackedWeight(codes.scheme, (weight.shape[0], weight.shape[1]))
        stem = name.removesuffix(".weight")
        parts = {"panels": packed.panels, "scales": packed.scales, "shifts": packed.shifts, "order": packed.order}
        tensors |= {f"{stem}.{part}": value for part, value in parts.items() if value is not None}
    save_file(tensors, path)
    change_config(tiny.folder, quantization_config(weights))
    return tiny.folder


def change_config(folder: Path, quantization: Any) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "quantization_config": quantization}))


def change_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replace parts of the down projection, or drop them."""
    tensors = load_file(folder / "model.safetensors")
    for part, value in changes.items():
        tensors.pop(f"{DOWN}.{part}", None)
        if value is not None:
            tensors[f"{DOWN}.{part}"] = value
    save_file(tensors, folder / "model.safetensors")


def refused(folder: Path) -> str:
    with pytest.raises(OstroError) as caught:
        load_model(folder)
    assert isinstance(caught.value, CheckpointError | ConfigError)
    return caught.value.message


def test_what_was_packed_is_loaded(folder: Path) -> None:
    model = load_model(folder)
    assert model.dtype == torch.float32
    assert all(isinstance(layer.format, Quantised) for layer in (model.embed, model.head))  # type: ignore[union-attr]  # a Module's attributes have no types
    original = tiny_checkpoints.make("mistral-blocks", folder.parent / "again").reference.state_dict()
    for name, target, part in (
        ("model.layers.0.self_attn.q_proj.weight", "layers.0.attention.qkv", "q"),
        ("model.layers.2.mlp.up_proj.weight", "layers.2.feed_forward.gate_up", "up"),
        (f"{DOWN}.weight", "layers.1.feed_forward.down", None),
        ("model.embed_tokens.weight", "embed", None),
    ):
        held = model.get_submodule(target).part(part)  # type: ignore[operator]  # has part()
        weight = original[name]
        assert held.shape == weight.shape
        assert float((held - weight).norm() / weight.norm()) < (0.15 if scheme_of(name).bits == 4 else 0.02)


def test_bytes_are_those_of_the_schemes(folder: Path) -> None:
    count, taken = load_model(folder).size()
    stored = sum(value.numel() * value.element_size() for value in load_file(folder / "model.safetensors").values())
    assert taken == stored
    assert taken < count  # below a byte a weight


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scales": None}, "scales .*missing"),
        ({"panels": None}, "panels .*missing"),
        ({"scales": torch.ones(2, 1, 32)}, "float32.*float16"),
        ({"scales": torch.ones(3, 1, 32).half()}, r"\[3, 1, 32\].*\[2, 1, 32\]"),
        ({"panels": torch.zeros(2, 4, 8, 64, dtype=torch.uint8)}, r"\[2, 4, 8, 64\].*\[2, 4, 8, 128\]"),
        ({"scales": torch.full((2, 1, 32), float("nan")).half()}, "NaN"),
        ({"shifts": torch.ones(2, 1, 32).half()}, "shifts, which its scheme does not know"),
        ({"order": torch.zeros(128, dtype=torch.int32)}, "no permutation"),
        ({"order": torch.arange(128, dtype=torch.int32) + 1}, "no permutation"),
        ({"order": torch.arange(64, dtype=torch.int32)}, r"\[64\].*\[128\]"),
        ({"zeros": torch.ones(2)}, "no place for.*zeros"),
    ],
)
def test_parts_that_do_not_fit(folder: Path, changes: dict[str, torch.Tensor | None], words: str) -> None:
    change_tensors(folder, **changes)
    message = refused(folder)
    assert re.search(words, message), message
    assert "down_proj" in message


GOOD = {"shape": [64, 128], "bits": 8, "group_size": 0, "shifted": False}


def config_of(value: Any, name: str = f"{DOWN}.weight", **more: Any) -> dict[str, Any]:
    return {"quant_method": "ostro", "version": VERSION, "weights": {name: value}, **more}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"quant_method": "ostro", "version": 1, "weights": {}}, "version 1 .*this Ostro reads version 2.*again"),
        ({"quant_method": "ostro", "version": 3, "weights": {}}, "version 3"),
        ({"quant_method": "ostro", "version": VERSION, "weights": []}, "malformed"),
        (config_of({"bits": 4}), "malformed.*shape, bits, group_size, shifted"),
        (config_of({**GOOD, "zeros": True}), "malformed.*shape, bits"),
        (config_of({**GOOD, "bits": True}), "malformed.*two integers and a boolean"),
        (config_of({**GOOD, "shifted": 1}), "malformed.*two integers and a boolean"),
        (config_of({**GOOD, "shape": 64}), "malformed.*two sizes"),
        (config_of({**GOOD, "shape": [64]}), "malformed.*two sizes"),
        (config_of({**GOOD, "shape": [64.0, 128]}), "malformed.*two sizes"),
        (config_of({**GOOD, "shape": [0, 128]}), "malformed.*two sizes"),
        (config_of(GOOD, ignore=["lm_head"]), "malformed: its key 'ignore' is unknown"),
        (config_of(GOOD), "lacks the tensor"),  # the others that are stored
        (config_of(GOOD, "model.layers.3.mlp.down_proj.weight"), r"panels of 'model\.layers\.3\..* missing.*names it"),
        ({"quant_method": "hqq"}, "hqq"),
        (None, "lacks|no quantised format|place"),
    ],
)
def test_configs_that_do_not_fit(folder: Path, config: Any, words: str) -> None:
    change_config(folder, config)
    assert re.search(words, refused(folder)), refused(folder)


def test_a_group_size_that_does_not_divide(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())["quantization_config"]
    values["weights"][f"{DOWN}.weight"] |= {"bits": 4, "group_size": 96}
    change_config(folder, values)
    assert "groups of 96" in refused(folder)


@pytest.mark.parametrize(("key", "size"), [("intermediate_size", 108), ("vocab_size", 127), ("head_dim", 14)])
def test_sizes_that_make_as_many_panels_and_blocks(folder: Path, key: str, size: int) -> None:
    """Nothing but the shape tells them from those that were quantised."""
    values = json.loads((folder / "config.json").read_text())
    assert -(-size // 32) == -(-values[key] // 32)
    (folder / "config.json").write_text(json.dumps({**values, key: size}))
    assert re.search(r"has the shape \[.*\]; the config asks for \[.*\]", refused(folder))
