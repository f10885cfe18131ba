"""A family recipe from the command line: progress, curves, and figures that the engine that serves gives."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ostro.training.family import Family

# Validation examples of a task that answers are judged on.
EXAMPLES = 400
_EVERY_S = 30.0


def train_family(values: dict[str, object], recipe: Path, data: Path, out: Path) -> dict[str, float]:
    """Train by a recipe of kind family, or go on; returns the final figures. Raises ConfigError, TrainingError."""
    from ostro.training.family import FamilyRecipe, run_family
    from ostro.training.plot import plot_log
    from ostro.training.recipe import convert

    loaded = convert(values, FamilyRecipe, recipe)
    with _Watcher() as watch:
        family, report = run_family(loaded, data, out, watch=watch)
    for log in sorted(out.glob("log-*.jsonl")):
        plot_log(log, log.with_suffix(".png"))
    figures = measure(family)
    if report is not None:
        figures |= {"gate_share": report.share, "gate_correlation": report.correlation}
        figures |= {
            "gate_loss": report.loss,
            "gate_fixed_loss": report.fixed_loss,
            "gate_whole_loss": report.whole_loss,
        }
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures


def measure(family: Family, count: int = EXAMPLES) -> dict[str, float]:
    """The written checkpoint, asked by the engine that serves it; each task also in wordings never trained on."""
    from ostro.core.sampling import SamplingParams
    from ostro.engine.llm import LLM
    from ostro.training.judging import Answer, judge, prompt_of
    from ostro.training.senses.tasks import Manner

    llm = LLM(family.folder / "model")
    assert llm.tokenizer is not None
    figures: dict[str, float] = {}
    for held in (False, True):
        for task in family.recipe.joint.tasks:
            if task == "text":
                continue
            manner = Manner(training=False, held_wordings=held)
            examples = family.tasks({task: 1.0}, manner, seed=3).examples(0, count)
            prompts = [prompt_of(llm.tokenizer, example) for example in examples]
            outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=48))
            found = judge(examples, [Answer(output.text, output.labels) for output in outputs])
            figures |= {f"{name}_new_words" if held else name: share for name, share in found.items()}
    return figures


class _Watcher:
    """A bar for each stage on a terminal; elsewhere a line now and then."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._tasks: dict[str, TaskID] = {}
        self._said = 0.0

    def __enter__(self) -> _Watcher:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def __call__(self, stage: str, step: int, steps: int, figures: dict[str, float]) -> None:
        import time

        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(stage, total=steps, figures="")
        shown = "  ".join(f"{name} {figures[name]:.3f}" for name in _SHOWN if name in figures)
        self._bar.update(self._tasks[stage], completed=step, figures=shown)
        now = time.monotonic()
        measured = any(name in figures for name in _MEASURED)
        if not sys.stderr.isatty() and (measured or step == steps or now - self._said >= _EVERY_S):
            self._said = now
            typer.echo(f"{stage} {step}/{steps}  {shown}", err=True)


_MEASURED = ("accuracy", "validation_loss")
_SHOWN = ("loss", "text", "labels", "contrast", *_MEASURED)
