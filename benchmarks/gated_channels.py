"""Wall time of the feed-forward layers of a text request to a model with gated channels, against the same weights as
dense layers of all channels.

The request goes through the engine: a prompt, and tokens one by one. The time is that of the feed-forward layers, of
the gate and of grouping tokens by level; beside it that of the whole request. With --shape the weights are random ones
of a larger model, whose gate's thresholds are set to run as much of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.report import machine
from benchmarks.shapes import SHAPES, randomised
from ostro import LLM, SamplingParams
from ostro.compression.text import SAMPLE
from ostro.models.layers.context import DenseContext
from ostro.models.layers.decoder import FeedForward
from ostro.models.mistral.config import parse
from ostro.models.ostro.config import GateConfig, OstroConfig
from ostro.models.ostro.model import NestedFeedForward, UnifiedDecoder
from ostro.tokenizer import load_tokenizer
from ostro.weights.loader import load_model
from ostro.weights.resolve import resolve_model
from ostro.weights.writer import save_checkpoint

LENGTH, NEW = 512, 32
# Of a random model's channels, as those of ostro-nano: a quarter, three eighths, all; and how many tokens rise.
WIDTHS, RISING = (0.25, 0.375, 1.0), (0.5, 0.9)


def dense_of(model: UnifiedDecoder) -> UnifiedDecoder:
    """The same model without a gate: segments of channels put together into one layer."""
    dense = UnifiedDecoder(dataclasses.replace(model.unified, gate=None)).to(model.dtype)
    tensors = {name: value for name, value in model.state_dict().items() if ".segments." not in name}
    tensors = {name: value for name, value in tensors.items() if not name.startswith("gate.")}
    for index, layer in enumerate(model.layers):
        assert isinstance(layer.feed_forward, NestedFeedForward)
        parts = [part for part in layer.feed_forward.segments if isinstance(part, FeedForward)]
        halves = [torch.cat([part.gate_up.part(half) for part in parts]) for half in ("gate", "up")]
        tensors[f"layers.{index}.feed_forward.gate_up.weight"] = torch.cat(halves)
        tensors[f"layers.{index}.feed_forward.down.weight"] = torch.cat([part.down.part(None) for part in parts], 1)
    dense.load_state_dict(tensors)
    return dense.eval()


def random_model(shape: str, ids_T: torch.Tensor) -> UnifiedDecoder:
    base = parse(SHAPES[shape])
    widths = tuple(int(share * base.intermediate_size) for share in WIDTHS)
    given = {one.name: getattr(base, one.name) for one in dataclasses.fields(base)}
    given |= {"architecture": "ostro", "gate": GateConfig(1, widths, (0.0,) * (len(widths) - 1))}
    model = randomised(UnifiedDecoder(OstroConfig(**given)))
    scores = scores_of(model, ids_T)
    thresholds = [float(torch.quantile(scores[:, index], share)) for index, share in enumerate(RISING)]
    gate = dataclasses.replace(model.unified.gate, thresholds=tuple(thresholds))  # type: ignore[type-var]  # it has one
    with_thresholds = UnifiedDecoder(dataclasses.replace(model.unified, gate=gate))
    with_thresholds.load_state_dict(model.state_dict())
    return with_thresholds.eval()


def scores_of(model: UnifiedDecoder, ids_T: torch.Tensor) -> torch.Tensor:
    scores: list[torch.Tensor] = []
    with torch.inference_mode():
        model(ids_T, torch.arange(len(ids_T)), DenseContext(), scores=scores)
    return scores[0]


def share(model: UnifiedDecoder, ids_T: torch.Tensor) -> float:
    """Of the full feed-forward compute, in multiplications."""
    gate = model.unified.gate
    assert gate is not None
    assert model.gate is not None
    widths_L = torch.tensor(gate.widths, dtype=torch.float64) / gate.widths[-1]
    behind = float(widths_L[model.gate.levels(scores_of(model, ids_T))].mean())
    count = model.config.num_layers
    return (gate.layer * float(widths_L[0]) + (count - gate.layer) * behind) / count


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

    timed_ones: list[nn.Module] = [block.feed_forward for block in model.layers]
    timed_ones += [] if model.gate is None else [model.gate]
    for module in timed_ones:
        module.forward = timed(module.forward)
    model._levels = timed(model._levels)  # type: ignore[method-assign,assignment]  # taken back below
    try:
        yield seconds
    finally:
        for module in timed_ones:
            del module.forward
        del model._levels


def spent(llm: LLM, prompt: Sequence[int], new: int) -> tuple[float, float]:
    """Seconds of the feed-forward layers of a request, and of all of it."""
    model = llm.engine.runner.model
    assert isinstance(model, UnifiedDecoder)
    params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
    with stopwatch(model) as seconds:
        started = time.perf_counter()
        llm.generate([list(prompt)], params, progress=False)
        whole = time.perf_counter() - started
    return sum(seconds), whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ostro-nano", help="a folder or name of the unified architecture")
    parser.add_argument("--shape", choices=["110m", "1b"], help="a larger model instead, of random weights")
    parser.add_argument("--text", type=Path, default=SAMPLE, help="text that is prefilled")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="print only the last line, one JSON object")
    args = parser.parse_args()
    source = resolve_model(args.model)
    tokenizer = load_tokenizer(source)
    assert tokenizer is not None
    prompt = tokenizer.encode(args.text.read_text(encoding="utf-8"))[:LENGTH]
    ids_T = torch.tensor(prompt)
    gated = load_model(source) if args.shape is None else random_model(args.shape, ids_T)
    assert isinstance(gated, UnifiedDecoder)
    assert gated.gate is not None, "the model has no gate"
    computed = share(gated, ids_T)
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        engines = {}
        for name, model in (("gated", gated), ("whole", dense_of(gated))):
            folder = Path(temporary) / name
            save_checkpoint(model, folder, dtype=model.dtype)
            shutil.copy(source / "tekken.json", folder)
            engines[name] = LLM(folder, device="cpu", prefix_caching=False, kv_memory=1 << 28)
        for part, new in (("prompt", 1), ("request", NEW)):
            found[part] = {name: [] for name in engines}
            for _ in range(args.rounds + 2):
                for name, llm in engines.items():
                    found[part][name].append(spent(llm, prompt, new))
    layers, passes = (
        {
            part: {name: 1000 * statistics.median(one[index] for one in rounds[2:]) for name, rounds in of.items()}
            for part, of in found.items()
        }
        for index in (0, 1)
    )

    def ratio(of: dict[str, dict[str, float]], part: str) -> float:
        return of[part]["gated"] / of[part]["whole"]

    result = {
        "benchmark": "gated_channels",
        "ours": round(layers["request"]["gated"], 3),
        "peer": round(layers["request"]["whole"], 3),
        "ratio": round(1 / ratio(layers, "request"), 3),
        "unit": "ms in feed-forward layers and the gate",
        "peer_name": "the same weights as dense layers of all channels",
        "model": args.shape or args.model,
        "tokens": [len(prompt), NEW],
        "share_of_compute": round(computed, 3),
        "share_of_time": {part: round(ratio(layers, part), 3) for part in found},
        "share_of_request": {part: round(ratio(passes, part), 3) for part in found},
        "machine": machine(),
    }
    if not args.json:
        for part in found:
            for what, of in (("feed-forward layers", layers), ("all of it", passes)):
                mine, peer = of[part]["gated"], of[part]["whole"]
                print(f"{part}, {what}: {mine:.2f} ms gated, {peer:.2f} ms with all channels ({mine / peer:.0%})")
        print(f"compute: {computed:.1%} of all")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
