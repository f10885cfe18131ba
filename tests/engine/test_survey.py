"""What a model is said to take before it is loaded, beside what it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import tiny_checkpoints
from ostro.core.options import EngineOptions
from ostro.core.paths import embedded_models
from ostro.engine.engine import Engine
from ostro.engine.survey import survey

NANO = str(embedded_models()["ostro-nano"])
GIB = 2**30


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_weights_and_cache_are_what_the_engine_takes(dtype: str) -> None:
    options = EngineOptions(model=NANO, device="cpu", dtype=dtype, max_num_seqs=4, threads=1)  # type: ignore[arg-type]  # any options
    (footprint,) = survey([options], 8 * GIB).footprints
    engine = Engine.load(options)
    assert footprint.weights == engine.card.weight_bytes
    cache = engine.runner.cache
    held = sum(tensor.nbytes for tensor in (*cache.keys, *cache.values))
    block = held // cache.num_blocks
    assert abs(footprint.kv - held) <= 2 * block  # the null block, and rounding


def test_a_cache_takes_a_quarter_of_the_budget_at_most_unless_somebody_says_more() -> None:
    budget = 400 * 2**20
    options = [
        EngineOptions(model=NANO, device="cpu"),
        EngineOptions(model=NANO, device="cpu", kv_memory=300 * 2**20),
        EngineOptions(model=NANO, device="cpu", max_model_len=1024, max_num_seqs=1),
    ]
    found = survey(options, budget)
    assert [footprint.kv for footprint in found.footprints[:2]] == [budget // 4, 300 * 2**20]
    tiny = survey([options[2]], 1000).footprints[0]
    engine = Engine.load(msgspec.structs.replace(options[2], kv_memory=tiny.kv, threads=1))
    assert engine.card.context == 1024
    assert found.device == "cpu"
    assert survey(options).budget == pytest.approx(0.8 * found.available, rel=0.1)  # others use memory meanwhile


def test_what_is_wrong_is_told_as_json(tmp_path: Path) -> None:
    models = json.dumps([{"model": str(tmp_path)}])
    done = subprocess.run(
        [sys.executable, "-m", "ostro.engine.survey", "--models", models], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["kind"] == "CheckpointError"


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_encoders_are_counted_as_they_are_held(tmp_path: Path, quantize: str | None) -> None:
    """They are not quantised with the rest, and what they make is kept in memory of its own."""
    tiny_checkpoints.make("mistral3-mistral", tmp_path / "m")
    tiny_checkpoints.make("mistral-nemo", tmp_path / "text")
    options = EngineOptions(model=str(tmp_path / "m"), device="cpu", quantize=quantize, encoder_cache=10_000_000)
    seeing, text = survey([options, msgspec.structs.replace(options, model=str(tmp_path / "text"))]).footprints
    assert seeing.overhead - text.overhead == 10_000_000
    engine = Engine.load(msgspec.structs.replace(options, threads=1, kv_memory=1_000_000))
    assert seeing.weights == pytest.approx(engine.card.weight_bytes, rel=0.03)
