"""Whole checkpoints quantised block by block: what is written is the model that was asked for, and it loads."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import tiny_checkpoints
import tiny_gguf
from ostro.compression import quantise
from ostro.compression.quantise import Texts, quantise_folder
from ostro.compression.recipe import METHODS, Recipe, Rule
from ostro.compression.report import Report
from ostro.compression.streams import perplexity
from ostro.core.errors import CheckpointError, ConfigError
from ostro.models.layers.context import DenseContext
from ostro.models.layers.formats import Quantised
from ostro.weights.loader import load_model
from tiny_checkpoints import MAKERS

INT8 = Recipe(scheme="int8")


def rows(count: int, length: int, seed: int) -> torch.Tensor:
    return torch.randint(3, 128, (count, length), generator=torch.Generator().manual_seed(seed))


TEXTS = Texts(rows(12, 64, 1), rows(4, 48, 2))


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose rows are whole blocks of 32."""
    return tiny_checkpoints.make("mistral-blocks", tmp_path_factory.mktemp("blocks")).folder


def logits(folder: Path, ids_L: torch.Tensor) -> torch.Tensor:
    model = load_model(folder)
    with torch.inference_mode():
        return model.logits(model(ids_L, torch.arange(len(ids_L)), DenseContext())).float()


def distance(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).norm() / left.norm())


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_every_architecture_in_eight_bits(kind: str, tmp_path: Path) -> None:
    """Names, windows, positions and tied heads arrive: one that did not would leave nothing of the logits."""
    folder = tiny_checkpoints.make(kind, tmp_path / "dense").folder
    quantise_folder(folder, tmp_path / "out", INT8, Texts())
    ids_L = rows(1, 100, 3)[0]
    dense = load_model(folder)
    found = load_model(tmp_path / "out")
    assert found.quantised
    assert found.config.windows == dense.config.windows
    assert found.config.yarn == dense.config.yarn
    assert found.config.query_scaling == dense.config.query_scaling
    assert found.config.tie_word_embeddings == dense.config.tie_word_embeddings
    assert distance(logits(folder, ids_L), logits(tmp_path / "out", ids_L)) < 0.12


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("mistral-v0.3", {"rope_theta": 1e6}),
        ("mistral-v0.1", {"rope_theta": 1e4, "sliding_window": 16}),
        ("ministral", {"rope_theta": 1e4, "sliding_window": [None, 16, 16]}),
        (
            "ministral3",
            {
                "rope_theta": 1e4,
                "yarn": {"factor": 8.0, "original_max_position_embeddings": 32, "beta": 32.0, "alpha": 1.0},
                "llama_4_scaling": {"beta": 0.1, "original_max_position_embeddings": 32},
            },
        ),
    ],
)
def test_native_folders_become_hugging_face_ones(kind: str, extra: dict[str, Any], tmp_path: Path) -> None:
    tiny = tiny_checkpoints.make(kind, tmp_path / "hf")
    tiny_checkpoints.to_native(tiny, tmp_path / "native", extra)
    quantise_folder(tmp_path / "native", tmp_path / "out", INT8, Texts())
    assert (tmp_path / "out" / "config.json").is_file()
    ids_L = rows(1, 100, 3)[0]
    assert distance(logits(tmp_path / "native", ids_L), logits(tmp_path / "out", ids_L)) < 0.12


def test_the_perplexities_are_those_of_the_whole_models(blocks: Path, tmp_path: Path) -> None:
    report = quantise_folder(blocks, tmp_path / "out", Recipe(), TEXTS)
    assert TEXTS.evaluation_NL is not None
    assert report.perplexity is not None
    assert report.perplexity.before == pytest.approx(perplexity(load_model(blocks), TEXTS.evaluation_NL), rel=1e-4)
    after = perplexity(load_model(tmp_path / "out"), TEXTS.evaluation_NL)
    assert report.perplexity.after == pytest.approx(after, rel=1e-4)
    assert report.perplexity.tokens == 4 * 47
    stored = msgspec.json.decode((tmp_path / "out" / "quantization.json").read_bytes(), type=Report)
    assert stored == report


def test_bits_and_bytes_are_counted(blocks: Path, tmp_path: Path) -> None:
    report = quantise_folder(blocks, tmp_path / "out", Recipe(), Texts())
    total = 0
    for path in (tmp_path / "out").glob("*.safetensors"):
        total += sum(value.nbytes for value in load_file(path).values())
    assert report.stored_bytes == total
    assert report.bits_per_weight == pytest.approx(8 * total / report.weights)
    assert 4.5 <= report.bits_per_weight < 5.0  # norms in float32 are a visible part of a tiny model
    assert all(matrix.bits_per_weight == 4.5 for matrix in report.matrices)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("grouping", ["contiguous", "correlated"])
def test_every_method_gives_a_model_near_the_dense_one(
    blocks: Path, method: str, grouping: Any, tmp_path: Path
) -> None:
    rounding, scaling = METHODS[method]
    # In 8 bits, where a scale or an order that went wrong stands out from what rounding does.
    recipe = Recipe(scheme="int8-g32", rounding=rounding, scaling=scaling, grouping=grouping)
    report = quantise_folder(blocks, tmp_path / "out", recipe, TEXTS)
    ids_L = rows(1, 60, 4)[0]
    assert 0 < distance(logits(blocks, ids_L), logits(tmp_path / "out", ids_L)) < 0.08
    assert any(matrix.reordered for matrix in report.matrices) == (grouping == "correlated")
    assert {matrix.rounding for matrix in report.matrices if "proj" in matrix.name} == {rounding}


def test_gptq_beats_rounding_on_inputs_that_go_together(blocks: Path, tmp_path: Path) -> None:
    """Few distinct tokens make inputs of low rank, which is what GPTQ lives on."""
    texts = Texts(rows(12, 64, 1) % 8 + 3, TEXTS.evaluation_NL)
    errors = {}
    for rounding in ("weighted", "gptq"):
        report = quantise_folder(blocks, tmp_path / rounding, Recipe(rounding=rounding), texts)  # type: ignore[arg-type]  # a parameter of the test
        errors[rounding] = [matrix.error for matrix in report.matrices if "proj" in matrix.name]
    pairs = zip(errors["gptq"], errors["weighted"], strict=True)
    assert all(gptq < weighted for gptq, weighted in pairs)
    assert sum(errors["gptq"]) < 0.8 * sum(errors["weighted"])


@pytest.mark.parametrize(("scaling", "scheme"), [("awq", "int4"), ("smoothquant", "int8")])
def test_scales_are_folded_where_inputs_differ_in_size(blocks: Path, tmp_path: Path, scaling: Any, scheme: str) -> None:
    """A norm with a few large weights: scaling then gains, and what is folded leaves the model what it was."""
    tensors = load_file(blocks / "model.safetensors")
    for name in [name for name in tensors if "layernorm" in name]:
        tensors[name][::16] *= 12
    folder = tmp_path / "outliers"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text((blocks / "config.json").read_text())
    plain = quantise_folder(folder, tmp_path / "plain", Recipe(scheme=scheme), TEXTS)
    scaled = quantise_folder(folder, tmp_path / "scaled", Recipe(scheme=scheme, scaling=scaling), TEXTS)
    assert any(matrix.scaled for matrix in scaled.matrices)
    assert not any(matrix.scaled for matrix in plain.matrices)
    ids_L = rows(1, 60, 4)[0]
    dense = logits(folder, ids_L)
    assert distance(dense, logits(tmp_path / "scaled", ids_L)) < distance(dense, logits(tmp_path / "plain", ids_L))


def test_rules_by_name(blocks: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        layers=(
            Rule(match="lm_head", scheme="dense"),
            Rule(match="*.down_proj", scheme="int8"),
            Rule(match="model.layers.1.*", scheme="int4-g64-shifted"),
        )
    )
    report = quantise_folder(blocks, tmp_path / "out", recipe, Texts())
    schemes = {matrix.name: matrix.scheme for matrix in report.matrices}
    assert schemes["lm_head.weight"] == "dense"
    assert schemes["model.layers.0.mlp.down_proj.weight"] == "int8"
    assert schemes["model.layers.1.mlp.down_proj.weight"] == "int8"  # the first rule that matches
    assert schemes["model.layers.1.self_attn.q_proj.weight"] == "int4-g64-shifted"
    assert schemes["model.layers.2.self_attn.q_proj.weight"] == "int4"
    model = load_model(tmp_path / "out")
    assert model.head is not None
    assert not isinstance(model.head.format, Quantised)
    down = model.get_submodule("layers.0.feed_forward.down").format  # type: ignore[union-attr]  # a Module's attributes have no types
    assert isinstance(down, Quantised)
    assert down.packed("").scheme.bits == 8  # type: ignore[union-attr]  # a Module's attributes have no types


@pytest.mark.parametrize("kind", ["mistral-blocks", "ministral3"])
def test_an_embedding_may_stay_dense(kind: str, tmp_path: Path) -> None:
    """Tied to the head or not."""
    folder = tiny_checkpoints.make(kind, tmp_path / "dense").folder
    rule = Rule(match="model.embed_tokens", scheme="dense")
    report = quantise_folder(folder, tmp_path / "out", Recipe(scheme="int8", layers=(rule,)), TEXTS)
    assert {m.scheme for m in report.matrices if "embed" in m.name} == {"dense"}
    found = load_model(tmp_path / "out")
    assert not isinstance(found.embed.format, Quantised)
    assert torch.equal(found.embed.part(None), load_model(folder).float().embed.part(None))


def test_an_fp8_checkpoint_is_quantised_from_what_it_means(blocks: Path, tmp_path: Path) -> None:
    folder, meant = tmp_path / "fp8", tmp_path / "meant"
    for path in (folder, meant):
        path.mkdir()
        (path / "config.json").write_text((blocks / "config.json").read_text())
    stored: dict[str, torch.Tensor] = {}
    dense: dict[str, torch.Tensor] = {}
    for name, value in load_file(blocks / "model.safetensors").items():
        stored[name] = dense[name] = value
        if "_proj" in name:
            scale = value.abs().max().float() / 448
            stored[name] = (value.float() / scale).to(torch.float8_e4m3fn)
            stored[f"{name}_scale"] = scale
            dense[name] = stored[name].float() * scale
    save_file(stored, folder / "model.safetensors")
    save_file(dense, meant / "model.safetensors")
    quantise_folder(folder, tmp_path / "one", INT8, Texts())
    quantise_folder(meant, tmp_path / "other", INT8, Texts())
    ids_L = rows(1, 60, 4)[0]
    assert distance(logits(tmp_path / "one", ids_L), logits(tmp_path / "other", ids_L)) < 1e-2
    assert distance(logits(folder, ids_L), logits(tmp_path / "one", ids_L)) < 0.12


def test_parts_that_see_come_along(tmp_path: Path) -> None:
    folder = tiny_checkpoints.make("mistral3-mistral", tmp_path / "dense").folder
    quantise_folder(folder, tmp_path / "out", INT8, Texts())
    stored: dict[str, torch.Tensor] = {}
    for path in (tmp_path / "out").glob("*.safetensors"):
        stored |= load_file(path)
    seeing = {name: value for name, value in load_file(folder / "model.safetensors").items() if "vision" in name}
    assert seeing
    assert all(torch.equal(stored[name], value) for name, value in seeing.items())


def test_shards_are_ordinary_safetensors_that_begin_at_cache_lines(blocks: Path, tmp_path: Path) -> None:
    quantise_folder(blocks, tmp_path / "out", Recipe(), Texts())
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    names: set[str] = set()
    for path in (tmp_path / "out").glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names |= set(file.keys())
            assert all(index["weight_map"][name] == path.name for name in file.keys())  # noqa: SIM118 - safetensors has keys() only
        header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
        assert (8 + int.from_bytes(path.read_bytes()[:8], "little")) % 4096 == 0
        for name, entry in header.items():
            if name.endswith((".panels", ".scales")):
                assert entry["data_offsets"][0] % 64 == 0
    assert names == index["weight_map"].keys()


def test_what_was_written_must_be_what_was_measured(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = quantise.packed_tensors

    def broken(name: str, packed: Any) -> dict[str, torch.Tensor]:
        tensors = honest(name, packed)
        return {part: value * 0 if part.endswith("o_proj.scales") else value for part, value in tensors.items()}

    monkeypatch.setattr(quantise, "packed_tensors", broken)
    with pytest.raises(CheckpointError, match="What was written to"):
        quantise_folder(blocks, tmp_path / "out", Recipe(), TEXTS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(scheme="int4-g128"), r"embed_tokens.*64 inputs.*128 do not divide"),
        (Recipe(scheme="int5"), "names no scheme"),
        (Recipe(scheme="dense"), "nothing to quantise"),
        (Recipe(layers=(Rule(match="model.layer.*", scheme="int8"),)), r"'model\.layer\.\*' is used by no weight"),
        (Recipe(scaling="smoothquant"), "SmoothQuant is for weights of 8 bits"),
        (Recipe(rounding="gptq"), "calibrated with text"),
        (Recipe(act_order=True), "act_order is the order in which GPTQ"),
        (Recipe(rounding="gptq", grouping="correlated", act_order=True), "act_order is the order in which GPTQ"),
        (Recipe(scheme="int4-g0", grouping="correlated"), "one group a row"),
    ],
)
def test_recipes_that_cannot_be(blocks: Path, tmp_path: Path, recipe: Recipe, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        quantise_folder(blocks, tmp_path / "out", recipe, Texts())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damping", [0.0, -1.0, float("nan"), float("inf")])
def test_damping_is_a_number_above_zero(damping: float) -> None:
    with pytest.raises(ConfigError, match="damping must be a number above 0"):
        Recipe(damping=damping)


def test_outputs_beyond_all_bounds_are_told(blocks: Path, tmp_path: Path) -> None:
    """A perplexity that is too large for a number is none to compare by, and no reason to break off without a word."""
    tensors = load_file(blocks / "model.safetensors")
    folder = tmp_path / "wild"
    folder.mkdir()
    tensors["model.norm.weight"] *= 1e5
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text((blocks / "config.json").read_text())
    report = quantise_folder(folder, tmp_path / "out", Recipe(scheme="int8-g32"), TEXTS)
    assert report.perplexity is not None
    assert report.perplexity.before == report.perplexity.after == float("inf")


def test_a_nan_names_its_layer_and_leaves_nothing(blocks: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "config.json").write_text((blocks / "config.json").read_text())
    for name in ("model.layers.1.mlp.up_proj.weight", "model.layers.1.input_layernorm.weight", "model.norm.weight"):
        tensors = load_file(blocks / "model.safetensors")
        tensors[name].view(-1)[7] = float("nan")
        save_file(tensors, folder / "model.safetensors")
        dense = Rule(match="model.layers.1.*", scheme="dense")
        for recipe in (Recipe(), Recipe(rounding="gptq"), Recipe(scaling="awq"), Recipe(layers=(dense,))):
            with pytest.raises(CheckpointError, match=name.removesuffix(".weight")):
                quantise_folder(folder, tmp_path / "out", recipe, TEXTS)
        assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_what_is_there_stays(blocks: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        quantise_folder(blocks, taken, Recipe(), Texts())
    with pytest.raises(ConfigError, match="cannot replace"):
        quantise_folder(blocks, blocks, Recipe(), Texts(), force=True)
    # What this command did not write it does not remove, whatever it is told.
    with pytest.raises(ConfigError, match="no folder that `ostro quantize` wrote"):
        quantise_folder(blocks, taken, Recipe(), Texts(), force=True)
    assert [path.name for path in taken.iterdir()] == ["thesis.txt"]
    assert (taken / "thesis.txt").read_text() == "mine"


def test_the_folder_around_the_source_stays(blocks: Path, tmp_path: Path) -> None:
    source = tmp_path / "outer" / "model"
    shutil.copytree(blocks, source)
    (tmp_path / "outer" / "quantization.json").write_text("{}")
    (tmp_path / "outer" / "config.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "outer")
    for out in (tmp_path / "outer", source / ".." / ".." / "outer"):
        with pytest.raises(ConfigError, match="holds the checkpoint"):
            quantise_folder(source, out, Recipe(), Texts(), force=True)
    with pytest.raises(ConfigError, match="is a link"):
        quantise_folder(source, tmp_path / "link", Recipe(), Texts(), force=True)
    with pytest.raises(ConfigError, match="is a file"):
        quantise_folder(source, source / "config.json", Recipe(), Texts(), force=True)
    assert load_file(source / "model.safetensors")


def test_what_was_made_before_is_replaced_when_that_is_asked_for(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    quantise_folder(blocks, out, Recipe(), Texts())
    with pytest.raises(ConfigError, match="not empty"):
        quantise_folder(blocks, out, INT8, Texts())
    # A run that fails leaves the old one, and a folder that somebody calls like unfinished work is theirs.
    (tmp_path / "out.part").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(quantise, "finish_quantised", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            quantise_folder(blocks, out, INT8, Texts(), force=True)
    assert json.loads((out / "quantization.json").read_text())["recipe"]["scheme"] == "int4"
    quantise_folder(blocks, out, INT8, Texts(), force=True)
    assert json.loads((out / "quantization.json").read_text())["recipe"]["scheme"] == "int8"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.part"]
    assert load_model(out).quantised
    # Readable by whom the folder around it lets in, as any other.
    assert out.stat().st_mode == (tmp_path / "out.part").stat().st_mode


def test_nothing_is_rounded_twice(blocks: Path, tmp_path: Path) -> None:
    quantise_folder(blocks, tmp_path / "once", Recipe(), Texts())
    tiny_gguf.write(tiny_checkpoints.make("mistral-blocks", tmp_path / "tiny"), tmp_path / "model.gguf", "Q8_0")
    for source in (tmp_path / "once", tmp_path / "model.gguf"):
        with pytest.raises(ConfigError, match="quantised already"):
            quantise_folder(source, tmp_path / "twice", Recipe(), Texts())


MIB = 1 << 20
# The allocator's slack and the pages of code that are touched for the first time.
ALLOWANCE = 32 * MIB
SHAPE = {
    "model_type": "mistral",
    "vocab_size": 4096,
    "hidden_size": 1024,
    "intermediate_size": 3584,
    "num_hidden_layers": 10,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
    "tie_word_embeddings": False,
}
PROBE = """
import sys
from pathlib import Path
import torch
from ostro.compression.quantise import Texts, quantise_folder
from ostro.compression.recipe import Recipe

def status(key):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024

ids = torch.arange(2 * 128).view(2, 128) * 31 % 4096
tiny, big, out = map(Path, sys.argv[1:4])
recipe = Recipe(rounding=sys.argv[4])
quantise_folder(tiny, out / "small", recipe, Texts(ids % 100, ids % 100))
Path("/proc/self/clear_refs").write_text("5")
start = status("VmRSS")
quantise_folder(big, out / "result", recipe, Texts(ids, ids))
print(status("VmHWM") - start)
"""


@pytest.mark.parametrize("rounding", ["nearest", pytest.param("gptq", marks=pytest.mark.slow)])
def test_one_layer_is_in_memory_at_a_time(blocks: Path, tmp_path: Path, rounding: str) -> None:
    """Less than the dense model itself: a layer in float32, what is measured of its inputs, and the result when it is
    loaded to be proven."""
    dim, width, heads = 1024, 3584, 1024
    layer = {
        "input_layernorm": (dim,),
        "post_attention_layernorm": (dim,),
        "self_attn.q_proj": (heads, dim),
        "self_attn.k_proj": (256, dim),
        "self_attn.v_proj": (256, dim),
        "self_attn.o_proj": (dim, heads),
        "mlp.gate_proj": (width, dim),
        "mlp.up_proj": (width, dim),
        "mlp.down_proj": (dim, width),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (4096, dim), "lm_head": (4096, dim)}
    shapes["model.norm"] = (dim,)
    for index in range(10):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{name}.weight": (torch.randn(shape, generator=generator) * 0.02 if len(shape) > 1 else torch.ones(shape)).to(
            torch.bfloat16
        )
        for name, shape in shapes.items()
    }
    model = sum(value.nbytes for value in tensors.values())
    layer_bytes = 4 * sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in layer.values())
    folder = tmp_path / "big"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(SHAPE))
    del tensors
    done = subprocess.run(
        [sys.executable, "-c", PROBE, blocks, folder, tmp_path, rounding], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout)
    assert peak < model + layer_bytes + ALLOWANCE, f"{peak / MIB:.0f} MiB beside a model of {model / MIB:.0f} MiB"
    if rounding == "nearest":
        assert peak < 0.75 * model
