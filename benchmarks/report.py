"""Timing and reporting that all benchmarks share."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

import ostro


def arguments(description: str | None, shape: str = "110m") -> argparse.Namespace:
    """The options every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print only the last line, one JSON object")
    parser.add_argument("--shape", default=shape, choices=["110m", "1b"], help="model shape (random weights)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; medians are reported")
    parser.add_argument("--cache", type=Path, default=None, help="where random checkpoints are kept")
    return parser.parse_args()


def cache_folder(args: argparse.Namespace) -> Path:
    root: Path = args.cache or Path(tempfile.gettempdir()) / "ostro-benchmarks"
    return root / args.shape


def timed(run: Callable[[], Any]) -> float:
    """Seconds that one call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def interleave(rounds: int, *sides: Callable[[], float]) -> list[float]:
    """Run A B A B … after one warm-up each; the median figure of each side."""
    for side in sides:
        side()
    figures: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, values in zip(sides, figures, strict=True):
            values.append(side())
    return [statistics.median(values) for values in figures]


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return {
        "cpu": name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "ostro": ostro.__version__,
    }


def report(args: argparse.Namespace, name: str, unit: str, ours: float, peer: float, lower: bool, **more: Any) -> None:
    """Print the result; the last line is JSON. `lower` says that lower figures are better: ratio is peer / ours."""
    ratio = peer / ours if lower else ours / peer
    result = {
        "benchmark": name,
        "shape": args.shape,
        "ratio": round(ratio, 3),
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "unit": unit,
        **more,
        "machine": machine(),
    }
    if not args.json:
        print(f"{name} ({args.shape}): ours {ours:.4g} {unit}, peer {peer:.4g} {unit}, ratio {ratio:.2f}")
    print(json.dumps(result))
