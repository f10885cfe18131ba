"""`quantize`: dense and FP8 checkpoints held as integers, the dense model never in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_checkpoints
import tiny_gguf
from ostro import LLM, SamplingParams
from ostro.compression.schemes import name_of, scheme_of
from ostro.core.errors import CheckpointError, ConfigError
from ostro.core.options import EngineOptions
from ostro.engine.survey import survey
from ostro.kernels.packed_linear.layout import Scheme

IDS = [(7 * i + 3) % 90 for i in range(40)]


@pytest.fixture(scope="module", params=["mistral-blocks", "tied"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tiny_checkpoints.Tiny:
    made = tiny_checkpoints.make("mistral-blocks", tmp_path_factory.mktemp("tiny"))
    if request.param == "tied":  # A checkpoint that repeats its embedding as its head, as some do.
        path = made.folder / "model.safetensors"
        tensors = load_file(path)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        save_file(tensors, path)
        values = json.loads((made.folder / "config.json").read_text())
        (made.folder / "config.json").write_text(json.dumps({**values, "tie_word_embeddings": True}))
    return made


def scores(llm: LLM) -> torch.Tensor:
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, ignore_eos=True)
    (out,) = llm.generate([IDS], params)
    assert out.prompt_logprobs is not None
    return torch.tensor([entry.logprob for entry in out.prompt_logprobs if entry is not None])


@pytest.mark.parametrize(
    ("scheme", "bound"), [("int8", 0.15), ("int8-g32", 0.15), ("int4", 0.6), ("int4-shifted", 0.6)]
)
def test_an_answer_is_near_the_dense_models(tiny: tiny_checkpoints.Tiny, scheme: str, bound: float) -> None:
    dense = scores(LLM(tiny.folder, kv_memory=1_000_000))
    llm = LLM(tiny.folder, quantize=scheme, kv_memory=1_000_000)
    assert llm.engine.runner.model.quantised
    error = float((scores(llm) - dense).abs().mean())
    assert 0 < error < bound
    bits = scheme_of(scheme).bits_per_weight
    weights = llm.engine.card.parameters
    assert llm.engine.card.weight_bytes <= weights * (bits or 8) / 8 * 1.25  # tiny norms, and scales of whole rows


def test_a_survey_knows_it(tiny: tiny_checkpoints.Tiny) -> None:
    options = EngineOptions(model=str(tiny.folder), device="cpu", quantize="int4")
    told = survey([options], 10**9).footprints[0].weights
    held = LLM(tiny.folder, quantize="int4", kv_memory=1_000_000).engine.card.weight_bytes
    assert held <= told <= held * 1.5  # a tied checkpoint's second head is counted


def test_names() -> None:
    for name, scheme in {
        "int4": Scheme(4, 32),
        "int4-g128": Scheme(4, 128),
        "int8": Scheme(8, 0),
        "int8-g64-shifted": Scheme(8, 64, shifted=True),
        "int4-g0": Scheme(4, 0),
    }.items():
        assert scheme_of(name) == scheme
        assert name_of(scheme) == name


@pytest.mark.parametrize("name", ["int3", "int4-g33", "INT4", "int4-", "q4_0", "", "int4-g999999999"])
def test_names_of_nothing(tiny: tiny_checkpoints.Tiny, name: str) -> None:
    with pytest.raises(ConfigError, match=r"int4|multiple of 32"):
        LLM(tiny.folder, quantize=name)


def test_groups_that_do_not_divide_name_the_weight(tmp_path: Path) -> None:
    folder = tiny_checkpoints.make("mistral-v0.3", tmp_path / "model").folder  # rows of 48
    with pytest.raises(ConfigError, match=r"embed_tokens.*48 inputs, which groups of 32 do not divide"):
        LLM(folder, quantize="int4")
    assert LLM(folder, quantize="int8", kv_memory=1_000_000).engine.runner.model.quantised


def test_a_layer_with_a_nan_is_named(tmp_path: Path) -> None:
    folder = tiny_checkpoints.make("mistral-blocks", tmp_path / "model").folder
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 7] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj"):
        LLM(folder, quantize="int8")


def test_nothing_is_rounded_twice(tmp_path: Path) -> None:
    tiny = tiny_checkpoints.make("mistral-blocks", tmp_path / "model")
    tiny_gguf.write(tiny, tmp_path / "model.gguf", "Q8_0")
    with pytest.raises(ConfigError, match="quantised already"):
        LLM(tmp_path / "model.gguf", quantize="int4")


def test_fp8_weights_become_integers(tmp_path: Path) -> None:
    folder = tiny_checkpoints.make("mistral-blocks", tmp_path / "model").folder
    path = folder / "model.safetensors"
    tensors = {}
    for name, weight in load_file(path).items():
        if "proj" in name:
            scale = weight.abs().amax() / 448
            tensors[name] = (weight / scale).to(torch.float8_e4m3fn)
            tensors[name.removesuffix(".weight") + ".weight_scale_inv"] = scale.reshape(())
        else:
            tensors[name] = weight
    save_file(tensors, path)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "quantization_config": {"quant_method": "fp8"}}))
    dense = scores(LLM(folder, dtype="float32", kv_memory=1_000_000))
    llm = LLM(folder, quantize="int8", kv_memory=1_000_000)
    assert llm.engine.runner.model.quantised
    assert 0 < float((scores(llm) - dense).abs().mean()) < 0.15


def test_from_the_command_line(tmp_path: Path) -> None:
    def run(scheme: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "ostro",
            "run",
            "ostro-nano",
            "I am still waiting on my card?",
            "--max-tokens",
            "8",
        ]
        return subprocess.run(
            [*command, "--quantize", scheme, "--json"],
            env=dict(os.environ),
            capture_output=True,
            text=True,
            timeout=120,
        )

    assert json.loads(run("int8").stdout)["text"] == "card_arrival"
    refused = run("int5")
    assert refused.returncode == 1
    assert "'int5' names no scheme" in refused.stderr
    assert "Traceback" not in refused.stderr
