"""Against llama.cpp on one GGUF file of random Q4_0 weights: decoding alone, decoding 16 together, prefill, memory.

The peer runs in a process of its own, from an environment that has llama-cpp-python built for this machine
(CMAKE_ARGS=-DGGML_NATIVE=ON pip install llama-cpp-python): --peer-python names its interpreter. Rounds alternate.
With --packed our side is a folder as `ostro quantize` writes it, with weights of the same scheme and size.
Times are those of engine steps on one side, and of llama_decode with a greedy pick on the other. The read bandwidth
of the machine is measured beside them, as the bound of decoding alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gguf_shapes import make_gguf
from benchmarks.packed_folders import make_folder
from benchmarks.report import machine
from ostro.core.expand import expand
from ostro.core.options import EngineOptions
from ostro.core.sampling import SamplingParams
from ostro.engine.engine import Engine
from ostro.kernels.dispatch import native

PROMPT, NEW = 32, 24
WORK = ("decode_1", "decode_16", "prefill_512")
PROBE = 1 << 29
# Tokens that both sides have room for: 16 sequences of 1,024.
CONTEXT = 16 * 1024


class Ours:
    """This project's engine, driven step by step in this process."""

    def __init__(self, path: Path, kv_dtype: str) -> None:
        options = EngineOptions(
            model=str(path),
            device="cpu",
            kv_dtype=kv_dtype,  # type: ignore[arg-type]  # checked there
            prefix_caching=False,
            max_num_seqs=16,
            max_batch_tokens=1024,
            max_model_len=1024,
            kv_memory=None,
        )
        self.engine = Engine.load(options)
        self._count = 0

    def decode(self, batch: int, prompt: int, new: int) -> float:
        """Seconds of `new` steps of `batch` sequences after prompts of `prompt` tokens."""
        for sequence in range(batch):
            self._add([(7 * i + 13 * sequence) % 1000 + 3 for i in range(prompt)], new + 8)
        seen: set[str] = set()
        while len(seen) < batch:  # Until all prompts are read; whoever was first has decoded a little already.
            seen |= {event.request_id for event in self._step()}
        started = time.perf_counter()
        for _ in range(new):
            assert len(self._step()) == batch
        seconds = time.perf_counter() - started
        self._drain()
        return seconds

    def prefill(self, prompt: int) -> float:
        """Seconds until the first token after a prompt is known."""
        self._add([(7 * i) % 1000 + 3 for i in range(prompt)], 1)
        started = time.perf_counter()
        self._drain()
        return time.perf_counter() - started

    @staticmethod
    def memory() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def _add(self, tokens: list[int], new: int) -> None:
        self._count += 1
        params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
        for request in expand(f"r{self._count}", tokens, params, eos_ids=(), context=1024):
            self.engine.add(request)

    def _step(self) -> list[Any]:
        return self.engine.step()

    def _drain(self) -> None:
        while self.engine.has_work:
            self.engine.step()


class Peer:
    """llama.cpp behind benchmarks/llama_peer.py."""

    def __init__(self, python: str, path: Path, options: dict[str, Any]) -> None:
        script = Path(__file__).with_name("llama_peer.py")
        command = [python, str(script), str(path), json.dumps({"context": CONTEXT, **options})]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version = self._line()["version"]

    def ask(self, run: str, **arguments: int) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"run": run, **arguments}) + "\n")
        self._process.stdin.flush()
        return float(self._line()["value"])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("The peer ended; run benchmarks/llama_peer.py by hand to see why.")
        answer: dict[str, Any] = json.loads(line)
        return answer


def main() -> None:
    args = _arguments()
    folder = args.cache or Path(tempfile.gettempdir()) / "ostro-benchmarks"
    path = make_gguf(args.shape, folder / "gguf")
    ours = Ours(make_folder(args.shape, "int4", folder / "packed") if args.packed else path, args.kv_dtype)
    before = Ours.memory()
    peer = Peer(args.peer_python, path, {"flash": not args.peer_no_flash, "mmap": not args.peer_no_mmap})
    weights = ours.engine.card.weight_bytes
    work: dict[str, tuple[Any, Any, float]] = {
        "decode_1": (
            lambda: ours.decode(1, PROMPT, NEW),
            lambda: peer.ask("decode", batch=1, prompt=PROMPT, new=NEW),
            NEW,
        ),
        "decode_16": (
            lambda: ours.decode(16, PROMPT, NEW // 2),
            lambda: peer.ask("decode", batch=16, prompt=PROMPT, new=NEW // 2),
            16 * NEW // 2,
        ),
        "prefill_512": (lambda: ours.prefill(512), lambda: peer.ask("prefill", prompt=512), 512),
    }
    figures: dict[str, Any] = {}
    # Of the machine, measured right before and after each of our rounds: neighbours change it from second to second.
    bandwidths: list[float] = []
    for name, (mine, theirs, tokens) in work.items():
        if name not in args.work:
            continue
        times: tuple[list[float], list[float]] = ([], [])
        mine(), theirs()
        for _ in range(args.rounds):
            around = [native.read_bandwidth(PROBE)]
            times[0].append(mine())
            around.append(native.read_bandwidth(PROBE))
            times[1].append(theirs())
            if name == "decode_1":
                bandwidths.append(statistics.mean(around))
        rates = [tokens / statistics.median(side) for side in times]
        best = [tokens / min(side) for side in times]
        figures[name] = {
            "ours": rates[0],
            "peer": rates[1],
            "ratio": rates[0] / rates[1],
            "best_ratio": best[0] / best[1],
        }
        if name == "decode_1":
            read = [tokens * weights / seconds for seconds in times[0]]
            shares = [rate / most for rate, most in zip(read, bandwidths, strict=True)]
            figures[name]["share_of_read_bandwidth"] = statistics.median(shares)
    bandwidth = statistics.median(bandwidths) if bandwidths else None
    peer_memory = peer.ask("memory")
    figures["memory"] = {
        "ours": Ours.memory(),
        "at_load": before,
        "peer": peer_memory,
        "ratio": peer_memory / Ours.memory(),
    }
    peer.close()
    result = {
        "benchmark": "against_llama",
        "shape": args.shape,
        "ratio": figures[args.work[0]]["ratio"],
        "ours": figures[args.work[0]]["ours"],
        "peer": figures[args.work[0]]["peer"],
        "unit": "tokens/s",
        "figures": figures,
        "read_bandwidth": bandwidth,
        "kernels": native.packed_kernels(),
        "peer_name": f"llama-cpp-python {peer.version}",
        "machine": machine(),
    }
    if not args.json:
        for name, values in figures.items():
            shown = ", ".join(f"{key} {value:.4g}" for key, value in values.items())
            print(f"{name} ({args.shape}): {shown}")
        if bandwidth is not None:
            print(f"reading memory: {bandwidth / 1e9:.1f} GB/s, weights: {weights / 1e9:.3f} GB")
    print(json.dumps(result))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print only the last line, one JSON object")
    parser.add_argument("--shape", default="1b", choices=["110m", "1b", "7b"], help="model shape (random weights)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; medians are reported")
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK), help="what is measured")
    parser.add_argument("--cache", type=Path, default=None, help="where random checkpoints are kept")
    parser.add_argument("--packed", action="store_true", help="our side maps a folder of our own, of the same scheme")
    parser.add_argument("--kv-dtype", default="auto", help="what our KV cache holds")
    parser.add_argument("--peer-python", default="python3", help="an interpreter that has llama-cpp-python")
    parser.add_argument("--peer-no-flash", action="store_true", help="the peer without its fused attention")
    parser.add_argument("--peer-no-mmap", action="store_true", help="the peer reads its file instead of mapping it")
    return parser.parse_args()


if __name__ == "__main__":
    main()
