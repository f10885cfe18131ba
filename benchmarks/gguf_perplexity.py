"""Perplexity of one trained model in 4 and 8 bits: this project's kernels against llama.cpp on the same GGUF file.

The model is the embedded one. Its text is what it says itself, sampled at temperature 1 with fixed seeds, so that the
clone is all that is needed; the float32 model's perplexity on it is the bound. Ratios are the peer's over ours: above
1 is better. Both sides read the same texts, so that what tells them apart is the difference text by text: its mean
stands beside its standard error. The peer runs from an environment with llama-cpp-python (see `against_llama`).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.gguf_shapes import write_gguf
from benchmarks.report import machine
from ostro import LLM, SamplingParams
from ostro.weights.loader import load_model

SEQUENCES, LENGTH = 96, 500


def score(llm: LLM, texts: list[list[int]]) -> list[float]:
    """Mean negative log-likelihood (nats) a token, of each text."""
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, ignore_eos=True)
    means = []
    for output in llm.generate(texts, params, progress=False):
        assert output.prompt_logprobs is not None
        means.append(-statistics.mean(entry.logprob for entry in output.prompt_logprobs if entry is not None))
    return means


def peer_score(python: str, path: Path, texts: list[list[int]]) -> list[float]:
    script = Path(__file__).with_name("llama_peer.py")
    commands = "".join(json.dumps({"run": "score", "tokens": text}) + "\n" for text in texts)
    command = [python, str(script), str(path), json.dumps({"context": 2048})]
    shown = subprocess.run(command, input=commands, capture_output=True, text=True, check=True).stdout
    values: list[dict[str, Any]] = [json.loads(line) for line in shown.splitlines()]
    return [value["value"] for value in values if "value" in value]


def compare(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Perplexities, and by how many percent ours is above the peer's."""
    apart = [100 * (mine - other) for mine, other in zip(ours, theirs, strict=True)]
    mine, other = math.exp(statistics.mean(ours)), math.exp(statistics.mean(theirs))
    return {
        "ours": mine,
        "peer": other,
        "ratio": other / mine,
        "above_percent": statistics.mean(apart),
        "standard_error": statistics.stdev(apart) / len(apart) ** 0.5,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="what `ostro train recipes/ostro-text.yaml` wrote")
    parser.add_argument("--json", action="store_true", help="print only the last line, one JSON object")
    parser.add_argument("--peer-python", default="python3", help="an interpreter that has llama-cpp-python")
    args = parser.parse_args()
    folder = args.model
    dense = LLM(folder, dtype="float32", prefix_caching=False)
    said = dense.generate(
        ["ROMEO:"] * SEQUENCES,
        [SamplingParams(max_tokens=LENGTH, seed=seed, ignore_eos=True) for seed in range(SEQUENCES)],
        progress=False,
    )
    texts = [output.prompt_token_ids + output.token_ids for output in said]
    exact = math.exp(statistics.mean(score(dense, texts)))
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for kind in ("Q4_0", "Q4_1", "Q8_0"):
            path = Path(scratch) / f"{kind}.gguf"
            write_gguf(load_model(folder), path, kind)
            theirs = peer_score(args.peer_python, path, texts)
            for kv_dtype in ("float16", "int8"):
                ours = score(LLM(path, kv_dtype=kv_dtype, prefix_caching=False), texts)
                figures[f"{kind}, {kv_dtype} cache"] = compare(ours, theirs)
    first = figures["Q4_0, float16 cache"]
    if not args.json:
        print(f"float32: {exact:.4f}")
        for name, values in figures.items():
            apart = f"{values['above_percent']:+.4f} % (standard error {values['standard_error']:.4f})"
            print(f"{name}: ours {values['ours']:.4f}, llama.cpp {values['peer']:.4f}, {apart}")
    result = {"benchmark": "gguf_perplexity", **first, "unit": "perplexity", "float32": exact, "figures": figures}
    print(json.dumps({**result, "tokens": sum(map(len, texts)), "machine": machine()}))


if __name__ == "__main__":
    main()
