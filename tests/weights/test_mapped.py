"""Quantised folders are mapped, not copied: nothing is read twice, and what is not aligned is read instead."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_checkpoints
from ostro.compression.quantise import Texts, quantise_folder
from ostro.compression.recipe import Recipe
from ostro.kernels.packed_linear.layout import Packed, all_finite
from ostro.models.layers.context import DenseContext
from ostro.models.layers.formats import Quantised
from ostro.weights.loader import load_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mapped")
    quantise_folder(tiny_checkpoints.make("mistral-blocks", root / "dense").folder, root / "out", Recipe(), Texts())
    return root / "out"


def head(folder: Path) -> Packed:
    model = load_model(folder)
    assert model.head is not None
    held = model.head.format
    assert isinstance(held, Quantised)
    packed = held.packed("")
    assert isinstance(packed, Packed)
    return packed


def mapped_files() -> str:
    return Path("/proc/self/maps").read_text()


def test_panels_lie_in_the_mapped_file(folder: Path) -> None:
    packed = head(folder)
    lines = [line.split() for line in mapped_files().splitlines() if str(folder) in line]
    ranges = [tuple(int(end, 16) for end in line[0].split("-")) for line in lines]
    for tensor in (packed.panels, packed.scales):
        address = tensor.data_ptr()
        assert any(start <= address < stop for start, stop in ranges)
        assert address % 64 == 0


def test_a_map_goes_with_its_model(folder: Path) -> None:
    packed = head(folder)
    del packed
    assert str(folder) not in mapped_files()


def test_a_folder_saved_again_by_others_is_read(folder: Path, tmp_path: Path) -> None:
    """One file in another order, its tensors at odd places: the same model, but no map."""
    tensors: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    ids = torch.arange(40) * 7 % 128

    def logits(model: torch.nn.Module) -> torch.Tensor:
        with torch.inference_mode():
            return model.logits(model(ids, torch.arange(40), DenseContext()))  # type: ignore[no-any-return, operator]  # a Module's attributes have no types

    assert torch.equal(logits(load_model(folder)), logits(load_model(tmp_path)))


def test_writing_over_weights_leaves_the_file_alone(folder: Path) -> None:
    packed = head(folder)
    before = packed.panels.flatten()[0].item()
    packed.panels.flatten()[0] = before ^ 1
    assert head(folder).panels.flatten()[0].item() == before


PROBE = """
import sys
from pathlib import Path
from ostro.weights.loader import load_model

def anonymous():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024

load_model(Path(sys.argv[1]))
start = anonymous()
model = load_model(Path(sys.argv[2]))
print(model.size()[1], anonymous() - start)
"""


def test_a_model_costs_no_memory_of_its_own(folder: Path, tmp_path: Path) -> None:
    dim, vocabulary, width = 1024, 8192, 4096
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    config |= {"hidden_size": dim, "intermediate_size": width, "vocab_size": vocabulary, "num_attention_heads": 16}
    config |= {"num_key_value_heads": 16, "head_dim": 64, "num_hidden_layers": 2, "tie_word_embeddings": False}
    square, up = (dim, dim), (width, dim)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (vocabulary, dim), "lm_head": (vocabulary, dim)}
    shapes["model.norm"] = (dim,)
    for layer in range(2):
        for name, shape in {
            "input_layernorm": (dim,),
            "post_attention_layernorm": (dim,),
            "self_attn.q_proj": square,
            "self_attn.k_proj": square,
            "self_attn.v_proj": square,
            "self_attn.o_proj": square,
            "mlp.gate_proj": up,
            "mlp.up_proj": up,
            "mlp.down_proj": (dim, width),
        }.items():
            shapes[f"model.layers.{layer}.{name}"] = shape
    dense = tmp_path / "dense"
    dense.mkdir()
    save_file(
        {f"{name}.weight": torch.full(shape, 0.01) for name, shape in shapes.items()}, dense / "model.safetensors"
    )
    (dense / "config.json").write_text(json.dumps(config))
    quantise_folder(dense, tmp_path / "out", Recipe(search=False), Texts())
    done = subprocess.run(
        [sys.executable, "-c", PROBE, folder, tmp_path / "out"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    size, grown = map(int, done.stdout.split())
    assert size > 20e6
    assert grown < size / 8


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("count", [1, 7, 40_000])
def test_values_that_are_not_finite_are_found_wherever_they_are(bad: float, count: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(0)).half()
    values[0] = 65504.0
    assert all_finite(values)
    for place in {0, count // 2, count - 1}:
        broken = values.clone()
        broken[place] = bad
        assert not all_finite(broken)
