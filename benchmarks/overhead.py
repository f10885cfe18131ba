"""The engine's own share of a step at batch 16: planning, laying out, sampling's bookkeeping, applying.

`ours` is the share of step time outside the model's forward pass and sampling; `peer` the limit of 5%.
"""

from __future__ import annotations

import statistics

from benchmarks.peers import greedy, random_prompt
from benchmarks.report import arguments, cache_folder, report
from benchmarks.shapes import make_checkpoint
from ostro.core.events import Event, StepFinished
from ostro.core.expand import expand
from ostro.core.options import EngineOptions
from ostro.engine.engine import Engine

BATCH, PROMPT, NEW = 16, 64, 64
LIMIT = 5.0


def main() -> None:
    args = arguments(__doc__)
    steps: list[StepFinished] = []

    def sink(event: Event) -> None:
        if isinstance(event, StepFinished):
            steps.append(event)

    folder = make_checkpoint(args.shape, cache_folder(args))
    engine = Engine.load(EngineOptions(model=str(folder), prefix_caching=True), sink=sink)
    for index in range(BATCH):
        engine.add(expand(str(index), random_prompt(PROMPT, index), greedy(NEW), eos_ids=(), context=4096)[0])
    while engine.has_work:
        engine.step()
    decoding = [step for step in steps if step.tokens == step.sequences == BATCH]
    shares = [100 * step.overhead / step.total for step in decoding]
    report(
        args,
        "overhead",
        "% of step time",
        statistics.median(shares),
        LIMIT,
        lower=True,
        steps=len(decoding),
        step_ms=round(1000 * statistics.median(step.total for step in decoding), 2),
        peer_name="the limit",
    )


if __name__ == "__main__":
    main()
