"""Wall time of the feed-forward layers of a text request to a model with gated channels, against all of its channels.

Text is prefilled at once. The same weights run both ways; the time is that of the feed-forward layers, of the gate and
of grouping tokens by level, and beside it that of the whole pass.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import machine
from ostro.compression.text import SAMPLE
from ostro.models.layers.context import DenseContext
from ostro.models.ostro.model import NestedFeedForward, UnifiedDecoder
from ostro.tokenizer import load_tokenizer
from ostro.weights.loader import load_model
from ostro.weights.resolve import resolve_model

LENGTH = 512


@contextmanager
def stopwatch(model: UnifiedDecoder) -> Iterator[list[float]]:
    """Seconds of each run of a feed-forward layer, and of what decides how much of it runs."""
    seconds: list[float] = []

    def timed(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def run(*given: Any) -> torch.Tensor:
            started = time.perf_counter()
            out = forward(*given)
            seconds.append(time.perf_counter() - started)
            return out

        return run

    layers = [module for module in model.modules() if isinstance(module, NestedFeedForward)]
    for layer in layers:
        layer.forward = timed(layer.forward)  # type: ignore[method-assign]  # taken back below
    assert model.gate is not None
    model.gate.forward = timed(model.gate.forward)  # type: ignore[method-assign]
    model._levels = timed(model._levels)  # type: ignore[method-assign,assignment]
    try:
        yield seconds
    finally:
        for layer in layers:
            del layer.forward
        del model.gate.forward, model._levels


def spent(model: UnifiedDecoder, ids_T: torch.Tensor, levels_T: torch.Tensor | None) -> tuple[float, float]:
    """Seconds of the feed-forward layers, and of the whole pass."""
    with stopwatch(model) as seconds:
        started = time.perf_counter()
        model(ids_T, torch.arange(len(ids_T)), DenseContext(), levels_T=levels_T)
        whole = time.perf_counter() - started
    return sum(seconds), whole


def share(model: UnifiedDecoder, ids_T: torch.Tensor) -> float:
    """Of the full feed-forward compute, in multiplications."""
    gate = model.unified.gate
    assert gate is not None
    assert model.gate is not None
    scores: list[torch.Tensor] = []
    model(ids_T, torch.arange(len(ids_T)), DenseContext(), scores=scores)
    widths_L = torch.tensor(gate.widths, dtype=torch.float64) / gate.widths[-1]
    behind = float(widths_L[model.gate.levels(scores[0])].mean())
    count = model.config.num_layers
    return (gate.layer * float(widths_L[0]) + (count - gate.layer) * behind) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ostro-nano", help="a folder or name of the unified architecture")
    parser.add_argument("--text", type=Path, default=SAMPLE, help="text that is prefilled")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", action="store_true", help="print only the last line, one JSON object")
    args = parser.parse_args()
    folder = resolve_model(args.model)
    tokenizer, model = load_tokenizer(folder), load_model(folder)
    assert tokenizer is not None
    assert isinstance(model, UnifiedDecoder)
    assert model.unified.gate is not None, "the model has no gate"
    ids_T = torch.tensor(tokenizer.encode(args.text.read_text(encoding="utf-8"))[:LENGTH])
    top_T = torch.full_like(ids_T, len(model.unified.gate.widths) - 1)
    found: dict[str, list[tuple[float, float]]] = {"gated": [], "whole": []}
    with torch.inference_mode():
        computed = share(model, ids_T)
        for _ in range(args.rounds + 2):
            found["gated"].append(spent(model, ids_T, None))
            found["whole"].append(spent(model, ids_T, top_T))
    layers, passes = (
        {name: 1000 * statistics.median(one[index] for one in rounds[2:]) for name, rounds in found.items()}
        for index in (0, 1)
    )
    result = {
        "benchmark": "gated_channels",
        "ours": round(layers["gated"], 3),
        "peer": round(layers["whole"], 3),
        "ratio": round(layers["whole"] / layers["gated"], 3),
        "unit": "ms in feed-forward layers and the gate",
        "peer_name": "the same weights, all channels",
        "model": args.model,
        "tokens": len(ids_T),
        "share_of_compute": round(computed, 3),
        "share_of_time": round(layers["gated"] / layers["whole"], 3),
        "share_of_pass": round(passes["gated"] / passes["whole"], 3),
        "machine": machine(),
    }
    if not args.json:
        print(f"feed-forward layers: {layers['gated']:.2f} ms gated, {layers['whole']:.2f} ms with all channels")
        print(f"whole pass: {passes['gated']:.2f} and {passes['whole']:.2f} ms; compute: {computed:.1%} of all")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
