"""Against OpenVINO GenAI and ONNX Runtime GenAI: int4 in groups of 32 on all sides, random weights of one shape.

Each --peer is a name, an interpreter, a folder that `runtime_peers.py make` wrote, and options as JSON; processes stay
and take turns. Ours is a folder as `ostro quantize` writes it.

    python -m benchmarks.against_runtimes --shape 1b \\
        --peer openvino ov/bin/python ov1b '{"backend": "PA"}' --peer onnxruntime ort/bin/python ort1b '{}'
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.against_llama import NEW, PROMPT, Ours, Peer
from benchmarks.packed_folders import make_folder
from benchmarks.report import machine
from ostro.kernels.dispatch import native


class RuntimePeer(Peer):
    """A runtime behind benchmarks/runtime_peers.py."""

    def __init__(self, runtime: str, python: str, folder: str, options: str) -> None:
        script = Path(__file__).with_name("runtime_peers.py")
        command = [python, str(script), "serve", runtime, folder, options]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version = self._line()["version"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print only the last line, one JSON object")
    parser.add_argument("--shape", default="1b", choices=["110m", "1b", "7b"], help="model shape (random weights)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; medians are reported")
    parser.add_argument("--cache", type=Path, default=None, help="where random checkpoints are kept")
    parser.add_argument(
        "--peer", nargs=4, action="append", required=True, metavar=("RUNTIME", "PYTHON", "FOLDER", "OPTIONS")
    )
    args = parser.parse_args()
    root = (args.cache or Path(tempfile.gettempdir())) / "ostro-benchmarks"
    ours = Ours(make_folder(args.shape, "int4", root / "packed"), "auto")
    peers = [RuntimePeer(*peer) for peer in args.peer]
    work: dict[str, tuple[dict[str, int], int]] = {
        "decode_1": ({"batch": 1, "prompt": PROMPT, "new": NEW}, NEW),
        "decode_16": ({"batch": 16, "prompt": PROMPT, "new": NEW // 2}, 16 * NEW // 2),
        "prefill_512": ({"prompt": 512}, 512),
    }
    figures: dict[str, dict[str, Any]] = {peer.version: {} for peer in peers}
    for name, (arguments, tokens) in work.items():
        kind = name.split("_")[0]
        sides = [lambda k=kind, a=arguments: getattr(ours, k)(**a)]
        sides += [lambda p=peer, k=kind, a=arguments: p.ask(k, **a) for peer in peers]
        times: list[list[float]] = [[] for _ in sides]
        for turn in range(args.rounds + 1):
            for side, run in zip(times, sides, strict=True):
                seconds = run()
                if turn:  # The first warms up.
                    side.append(seconds)
        rates = [tokens / statistics.median(side) for side in times]
        for peer, rate in zip(peers, rates[1:], strict=True):
            figures[peer.version][name] = {"ours": rates[0], "peer": rate, "ratio": rates[0] / rate}
            if not args.json:
                print(f"{name} ({args.shape}): ours {rates[0]:.4g}, {peer.version} {rate:.4g}, {rates[0] / rate:.3f}")
    for peer in peers:
        peer.close()
    first = min((values["decode_1"] for values in figures.values()), key=lambda value: value["ratio"])
    result = {
        "benchmark": "against_runtimes",
        "shape": args.shape,
        **first,
        "unit": "tokens/s",
        "figures": figures,
        "kernels": native.packed_kernels(),
        "machine": machine(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
