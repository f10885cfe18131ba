"""From nothing to an answer: load, first token, 64 tokens after 512, and memory, each in a process of its own.

Quantised folders of random weights, as `ostro quantize` writes them, from the page cache. With --peer-python, which
names an interpreter that has llama-cpp-python, the first token of llama.cpp on a GGUF file of the same shape stands
beside; processes alternate. The scheme `gguf` is that file on our side. Times begin when libraries are imported: with
the call that loads the model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.gguf_shapes import make_gguf
from benchmarks.packed_folders import make_folder
from benchmarks.report import machine

OURS = """
import json, resource, sys, time
from ostro import LLM, SamplingParams
ids = [(7 * i) % 1000 + 3 for i in range(512)]
greedy = lambda new: SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
started = time.perf_counter()
llm = LLM(sys.argv[1], kv_memory=128 << 20, max_model_len=640, prefix_caching=False)
loaded = time.perf_counter()
llm.generate([ids[:8]], greedy(1), progress=False)
first = time.perf_counter()
llm.generate([ids], greedy(64), progress=False)
answered = time.perf_counter()
llm.generate([ids], greedy(1), progress=False)
print(json.dumps({
    "load_s": loaded - started,
    "first_token_s": first - started,
    "answer_s": answered - first,
    "prefill_s": time.perf_counter() - answered,
    "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    "weights_gb": llm.engine.card.weight_bytes / 1e9,
}))
"""
PEER = """
import json, sys, time
sys.path.insert(0, sys.argv[2])
import llama_peer
started = time.perf_counter()
peer = llama_peer.Peer(sys.argv[1], context=640)
loaded = time.perf_counter()
peer.prefill(8)
print(json.dumps({"load_s": loaded - started, "first_token_s": time.perf_counter() - started}))
"""


def child(python: str, code: str, *arguments: str) -> dict[str, float]:
    done = subprocess.run([python, "-c", code, *arguments], capture_output=True, text=True, check=True)
    values: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return values


def median(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print only the last line, one JSON object")
    parser.add_argument("--shape", default="7b", choices=["110m", "1b", "7b"], help="model shape (random weights)")
    parser.add_argument(
        "--schemes", nargs="+", default=["int4", "int8"], help="what the weights are held in; gguf: a Q4_0 file"
    )
    parser.add_argument("--rounds", type=int, default=3, help="processes a scheme; medians are reported")
    parser.add_argument("--cache", type=Path, default=None, help="where random checkpoints are kept")
    parser.add_argument("--peer-python", default=None, help="an interpreter that has llama-cpp-python")
    args = parser.parse_args()
    root = (args.cache or Path(tempfile.gettempdir())) / "ostro-benchmarks"
    figures: dict[str, Any] = {}
    peer: dict[str, float] | None = None
    for scheme in args.schemes:
        made = (
            make_gguf(args.shape, root / "gguf")
            if scheme == "gguf"
            else make_folder(args.shape, scheme, root / "packed")
        )
        folder = str(made)
        child(sys.executable, OURS, folder)  # Into the page cache.
        ours, theirs = [], []
        beside = args.peer_python if scheme == "int4" else None
        gguf = str(make_gguf(args.shape, root / "gguf")) if beside else ""
        if beside:
            child(beside, PEER, gguf, str(Path(__file__).parent))
        for _ in range(args.rounds):
            ours.append(child(sys.executable, OURS, folder))
            if beside:
                theirs.append(child(beside, PEER, gguf, str(Path(__file__).parent)))
        figures[scheme] = median(ours)
        if theirs:
            peer = median(theirs)
        if not args.json:
            print(
                f"{args.shape} {scheme}: " + ", ".join(f"{key} {value:.3g}" for key, value in figures[scheme].items())
            )
    first = figures[args.schemes[0]]["first_token_s"]
    result = {
        "benchmark": "answers",
        "shape": args.shape,
        "ours": first,
        "peer": None if peer is None else peer["first_token_s"],
        "ratio": None if peer is None else peer["first_token_s"] / first,
        "unit": "s to the first token",
        "figures": figures,
        "peer_figures": peer,
        "machine": machine(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
