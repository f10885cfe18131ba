"""The dense matrix product of the engine against PyTorch's own, float32, over the shapes of a decoder layer."""

from __future__ import annotations

import statistics

import torch

from benchmarks.report import arguments, interleave, report, timed
from benchmarks.shapes import SHAPES
from ostro.kernels.linear import linear, reference

ROWS = (1, 16, 512)


def main() -> None:
    args = arguments(__doc__)
    shape = SHAPES[args.shape]
    inputs, outputs = shape["hidden_size"], 2 * shape["intermediate_size"]
    # Several weights in turn, as a model has: one alone would stay in the cache.
    weights = [torch.randn(outputs, inputs) for _ in range(max(2, 400_000_000 // (4 * inputs * outputs)))]
    ratios = {}
    for rows in ROWS:
        x = torch.randn(rows, inputs)

        def run(product: object, x: torch.Tensor = x) -> float:
            with torch.inference_mode():
                return timed(lambda: [product(x, weight) for weight in weights])  # type: ignore[operator]  # one of two products

        ours, peer = interleave(args.rounds, lambda: run(linear), lambda: run(reference.linear))
        ratios[str(rows)] = round(peer / ours, 2)
    report(
        args,
        "linear",
        "speed relative to torch.nn.functional.linear, median over rows",
        statistics.median(ratios.values()),
        1.0,
        lower=False,
        by_rows=ratios,
        peer_name="torch.nn.functional.linear",
    )


if __name__ == "__main__":
    main()
