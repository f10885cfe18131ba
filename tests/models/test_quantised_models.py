"""Models whose weights are integers: GGUF files against transformers on the very weights that they mean."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_checkpoints
import tiny_gguf
from ostro import LLM, SamplingParams
from ostro.core.errors import CheckpointError, ConfigError
from ostro.core.options import EngineOptions
from ostro.engine.survey import survey
from ostro.models.layers.context import DenseContext
from ostro.models.layers.decoder import Decoder
from ostro.weights.loader import load_model
from weights.test_gguf_blocks import random_blocks

KINDS = ["F32", "F16", "BF16", "Q8_0", "Q5_0", "Q5_1", "Q4_0", "Q4_1"]
IDS = [(7 * i + 3) % 90 for i in range(40)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tiny_checkpoints.Tiny:
    return tiny_checkpoints.make("mistral-blocks", tmp_path_factory.mktemp("tiny"))


def logits_of(model: Decoder) -> torch.Tensor:
    with torch.inference_mode():
        hidden = model(torch.tensor(IDS), torch.arange(len(IDS)), DenseContext())
        return model.logits(hidden).float()


def reference_logits(tiny: tiny_checkpoints.Tiny, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    before = {name: value.clone() for name, value in tiny.reference.state_dict().items()}
    tiny.reference.load_state_dict(weights)
    with torch.inference_mode():
        logits: torch.Tensor = tiny.reference(torch.tensor([IDS])).logits[0].float()
    tiny.reference.load_state_dict(before)
    return logits


@pytest.mark.parametrize("kind", KINDS)
def test_a_gguf_file_gives_the_logits_that_its_weights_mean(
    tiny: tiny_checkpoints.Tiny, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    meant = tiny_gguf.write(tiny, path, kind)
    model = load_model(path, dtype=torch.float32)
    assert model.quantised == kind.startswith("Q")
    expected = reference_logits(tiny, meant)
    error = float((logits_of(model) - expected).norm() / expected.norm())
    # Dense weights are multiplied in float32; beside quantised ones activations have 8 bits.
    assert error < (0.05 if model.quantised else 1e-4)


def test_a_file_of_k_types_as_makers_mix_them(tmp_path: Path) -> None:
    """Random blocks, every bit of them: nothing that writes these types is at hand."""
    torch.manual_seed(0)
    reference = tiny_checkpoints._mistral(hidden_size=256, intermediate_size=512, head_dim=64).eval()
    tiny = tiny_checkpoints.Tiny(tmp_path, reference)
    kinds = {"v_proj": "Q6_K", "down_proj": "Q6_K", "embed_tokens": "Q5_K", "lm_head": "Q6_K", "o_proj": "Q8_0"}

    def kind_of(name: str) -> str:
        return next((kind for part, kind in kinds.items() if part in name), "Q4_K")

    def blocks_of(weight: torch.Tensor, kind: str) -> np.ndarray:
        if kind == "Q8_0":
            return tiny_gguf.quantised(weight, kind)
        rows, columns = weight.shape
        # Whole numbers of these types go up to some 1,000, their products with codes to 15,000.
        return random_blocks(kind, rows, columns // 256, seed=rows, magnitude=2e-5 if kind == "Q6_K" else 1e-4)

    meant = tiny_gguf.write(tiny, tmp_path / "model.gguf", kind_of, blocks_of)
    expected = reference_logits(tiny, meant)
    found = logits_of(load_model(tmp_path / "model.gguf"))
    assert float((found - expected).norm() / expected.norm()) < 0.05


def test_a_model_without_native_code_answers_as_with_it() -> None:
    """Products, attention and picks by their references, in a model that is served as integers."""
    command = [
        sys.executable,
        "-m",
        "ostro",
        "run",
        "ostro-nano",
        "I am still waiting on my card?",
        "--quantize",
        "int8",
    ]
    command += ["--kv-dtype", "int8", "--max-tokens", "8", "--temperature", "0"]
    texts = []
    for kernels in ("", "reference"):
        environment = {**os.environ, "OSTRO_KERNELS": kernels}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        texts.append(done.stdout)
    assert texts[0] == texts[1] == "card_arrival\n"


def test_wrongly_ordered_heads_would_show(tiny: tiny_checkpoints.Tiny, tmp_path: Path) -> None:
    """The bound above tells a rotary layout from the other."""
    meant = tiny_gguf.write(tiny, tmp_path / "model.gguf", "Q8_0")
    expected = reference_logits(tiny, meant)
    for name in meant:
        if "q_proj" in name or "k_proj" in name:
            meant[name] = tiny_checkpoints.interleave(meant[name], 16)
    wrong = reference_logits(tiny, meant)
    assert float((wrong - expected).norm() / expected.norm()) > 0.2


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_an_answer_is_the_same_in_any_company(tiny: tiny_checkpoints.Tiny, kind: str, tmp_path: Path) -> None:
    """Rows of a product do not depend on each other, so batches, chunks and reuse change nothing."""
    path = tmp_path / "model.gguf"
    tiny_gguf.write(tiny, path, kind)
    prompts = [IDS[:5], IDS, IDS[:33], IDS[2:20]]
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    alone = LLM(path, max_num_seqs=1, max_batch_tokens=64, kv_memory=1_000_000, prefix_caching=False)
    expected = [alone.generate([prompt], params)[0].token_ids for prompt in prompts]
    assert len({tuple(tokens) for tokens in expected}) > 1
    together = LLM(path, max_num_seqs=4, max_batch_tokens=16, kv_memory=1_000_000)
    for _ in range(2):
        assert [out.token_ids for out in together.generate(prompts, params)] == expected


@pytest.mark.parametrize(("kv_dtype", "bound"), [("float16", 2e-3), ("bfloat16", 2e-2), ("int8", 2e-2)])
def test_what_the_cache_holds_changes_little(tiny: tiny_checkpoints.Tiny, kv_dtype: str, bound: float) -> None:
    """Log-probabilities of a prompt, over a cache of each type against one of float32."""

    def scores(kept_as: str) -> tuple[torch.Tensor, torch.dtype]:
        llm = LLM(tiny.folder, dtype="float32", kv_dtype=kept_as, kv_memory=2_000_000, max_batch_tokens=16,
                  max_num_seqs=8)  # fmt: skip
        params = SamplingParams(temperature=0, max_tokens=8, logprobs=0, prompt_logprobs=0, ignore_eos=True)
        (out,) = llm.generate([IDS], params)
        assert out.prompt_logprobs is not None
        values = [entry.logprob for entry in out.prompt_logprobs[1:] if entry is not None]
        return torch.tensor(values), llm.engine.runner.cache.keys[0].dtype

    exact, _ = scores("float32")
    rounded, dtype = scores(kv_dtype)
    assert dtype == getattr(torch, kv_dtype)
    assert not torch.equal(exact, rounded)
    assert float((exact - rounded).abs().mean()) < bound * 5


def test_the_cache_is_float16_where_weights_are_integers(tiny: tiny_checkpoints.Tiny, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    tiny_gguf.write(tiny, path, "Q4_0")
    assert LLM(path, kv_memory=1_000_000).engine.runner.cache.keys[0].dtype == torch.float16
    assert LLM(tiny.folder, kv_memory=1_000_000).engine.runner.cache.keys[0].dtype == torch.float32


def test_an_int8_cache_takes_about_half_of_a_float16_one(tiny: tiny_checkpoints.Tiny) -> None:
    tokens = {
        kind: LLM(tiny.folder, kv_dtype=kind, kv_memory=500_000).engine.card.kv_tokens for kind in ("float16", "int8")
    }
    assert tokens["int8"] >= 1.5 * tokens["float16"]  # heads of 16 have a scale of 4 bytes each


def test_a_survey_knows_what_quantised_weights_take(tiny: tiny_checkpoints.Tiny, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    tiny_gguf.write(tiny, path, "Q4_0")
    told = survey([EngineOptions(model=str(path), device="cpu")], 10**9).footprints[0].weights
    held = load_model(path).size()[1]
    assert held <= told <= held * 1.02


def test_quantised_weights_are_refused_on_other_devices(tiny: tiny_checkpoints.Tiny, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    tiny_gguf.write(tiny, path, "Q4_0")
    with pytest.raises(ConfigError, match="run on the CPU only"):
        load_model(path, device="meta")


def test_a_gguf_file_that_lacks_a_tensor_or_has_one_too_many(tiny: tiny_checkpoints.Tiny, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    tiny_gguf.write(tiny, path, "Q8_0")
    path.write_bytes(path.read_bytes().replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_UP.weight"))
    with pytest.raises(CheckpointError, match=r"blk\.1\.ffn_up\.weight"):
        load_model(path)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="ends"):
        load_model(cut)
