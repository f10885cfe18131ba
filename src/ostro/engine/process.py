"""`python -m ostro.engine.process`: one engine in a process of its own, spoken to over an inherited socket."""

from __future__ import annotations

import gc
import sys

from ostro.core.cpus import allowed_cpus, confine, plan_cpus
from ostro.core.options import EngineOptions
from ostro.link.worker import Progress, StepEngine, run_worker


def settle(options: EngineOptions) -> None:
    """Keep to the cores that compute, before any thread that does is there."""
    allowed = allowed_cpus()
    plan = plan_cpus(allowed)
    alone = options.pin and options.threads is None and options.device != "cuda"
    confine(plan.compute if alone and plan.confined else allowed)


def load(options: EngineOptions, progress: Progress) -> StepEngine:
    # Imported here, so that the process has its reader thread and can report before torch's seconds of import.
    progress(0, 1, "starting PyTorch")
    settle(options)
    from ostro.engine.engine import Engine

    engine = Engine.load(options, progress=progress)
    # What was made so far stays: the collector need not go through PyTorch's modules again and again between steps.
    gc.collect()
    gc.freeze()
    return engine


if __name__ == "__main__":
    sys.exit(run_worker(load))
