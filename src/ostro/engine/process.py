"""`python -m ostro.engine.process`: one engine in a process of its own, spoken to over an inherited socket."""

from __future__ import annotations

import gc
import sys

from ostro.core.options import EngineOptions
from ostro.link.worker import Progress, StepEngine, run_worker


def load(options: EngineOptions, progress: Progress) -> StepEngine:
    # Imported here, so that the process has its reader thread and can report before torch's seconds of import.
    progress(0, 1, "starting PyTorch")
    from ostro.engine.engine import Engine

    engine = Engine.load(options, progress=progress)
    # What was made so far stays: the collector need not go through PyTorch's modules again and again between steps.
    gc.collect()
    gc.freeze()
    return engine


if __name__ == "__main__":
    sys.exit(run_worker(load))
