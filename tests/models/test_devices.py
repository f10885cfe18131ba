"""Other number formats and devices than float32 on a CPU."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

import tiny_checkpoints
from ostro import LLM, SamplingParams
from ostro.compression.quantise import Texts, quantise_folder
from ostro.compression.recipe import Recipe
from ostro.core.errors import ConfigError
from ostro.core.options import EngineOptions
from ostro.engine.engine import Engine, device_for
from ostro.engine.survey import survey

GREEDY = SamplingParams(temperature=0, max_tokens=8, logprobs=0, ignore_eos=True)
PROMPTS = [[5 + i for i in range(40)], [9, 8, 7], [3] * 17]


def logprobs(folder: Path, **options: object) -> tuple[list[list[int]], torch.Tensor]:
    outputs = LLM(folder, kv_memory=2_000_000, **options).generate(PROMPTS, GREEDY)  # type: ignore[arg-type]  # a Module's attributes have no types
    return [o.token_ids for o in outputs], torch.tensor([[x.logprob for x in o.logprobs or []] for o in outputs])


def test_bfloat16_stays_near_float32(tmp_path: Path) -> None:
    folder = tiny_checkpoints.make("ministral3", tmp_path / "model").folder
    tokens, exact = logprobs(folder)
    rounded_tokens, rounded = logprobs(folder, dtype="bfloat16")
    # The first token follows the same prompt; later ones may follow another choice.
    torch.testing.assert_close(rounded[:, 0], exact[:, 0], atol=0.15, rtol=0.05)
    assert sum(a[0] == b[0] for a, b in zip(tokens, rounded_tokens, strict=True)) >= 2


def test_a_device_or_type_that_is_not_there_is_refused(tmp_path: Path) -> None:
    folder = tiny_checkpoints.make("mistral-v0.3", tmp_path / "model").folder
    with pytest.raises(ConfigError, match="float16"):
        LLM(folder, device="cpu", dtype="float16")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            LLM(folder, device="cuda")


def test_rounded_weights_stay_on_the_cpu_where_there_is_another_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless that is asked for, which is refused."""
    folder = tiny_checkpoints.make("mistral-v0.3", tmp_path / "model").folder
    quantise_folder(folder, tmp_path / "int8", Recipe(scheme="int8"), Texts())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for options in (EngineOptions(model=str(tmp_path / "int8")), EngineOptions(model=str(folder), quantize="int8")):
        assert device_for(options).type == "cpu"
        assert Engine.load(msgspec.structs.replace(options, kv_memory=1 << 20)).card.device == "cpu"
        assert survey([options], 1 << 30).device == "cpu"
    assert device_for(EngineOptions(model=str(folder))).type == "cuda"
    with pytest.raises(ConfigError, match="run on the CPU only"):
        LLM(tmp_path / "int8", device="cuda")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["mistral-v0.1", "mistral-v0.3", "ministral", "ministral3"])
def test_cuda_gives_the_cpus_answers(tmp_path: Path, kind: str) -> None:
    folder = tiny_checkpoints.make(kind, tmp_path / "model").folder
    torch.backends.cuda.matmul.allow_tf32 = False
    tokens, exact = logprobs(folder, device="cpu")
    cuda_tokens, cuda = logprobs(folder, device="cuda", max_batch_tokens=64)
    assert cuda_tokens == tokens
    torch.testing.assert_close(cuda, exact, atol=1e-3, rtol=0)
