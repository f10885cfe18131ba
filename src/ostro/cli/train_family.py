"""A family recipe from the command line: progress, curves, and figures that the engine that serves gives."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ostro.cli.cards import filled_card, read_card

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ostro.engine.llm import LLM
    from ostro.training.family_recipe import FamilyRecipe
    from ostro.training.prepared import Family

# Validation examples of a task that answers are judged on.
EXAMPLES = 1000
_EVERY_S = 30.0


def train_family(
    values: dict[str, object], recipe: Path, data: Path, out: Path, device: torch.device | None = None
) -> dict[str, float]:
    """Train by a recipe of kind family, or go on; returns the final figures, those of the smaller model with `edge_`
    before their names. Each checkpoint gets its card. Raises ConfigError, TrainingError."""
    from ostro.training.family import run_family
    from ostro.training.family_recipe import FamilyRecipe
    from ostro.training.plot import plot_log
    from ostro.training.recipe import convert

    loaded = convert(values, FamilyRecipe, recipe)
    cards = [None if name is None else read_card(recipe.parent / name) for name in _card_names(loaded)]
    with _Watcher() as watch:
        trained = run_family(loaded, data, out, watch=watch, device=device)
    figures: dict[str, float] = {}
    for one, mark in zip(trained, ("", "edge_"), strict=False):
        found = measure(one.family, EXAMPLES) | size(one.family) | {"minutes": minutes(one.family.folder)}
        if one.gate is not None:
            report = one.gate
            found |= {"gate_share": report.share, "gate_correlation": report.correlation, "gate_loss": report.loss}
            found |= {"gate_drawn_loss": report.drawn_loss, "gate_width_loss": report.width_loss}
            found |= {"gate_whole_loss": report.whole_loss, "gate_gain": report.gain, "gate_error": report.gain_error}
        figures |= {mark + name: value for name, value in found.items()}
    # First what cost hours.
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    for one, card in zip(trained, cards, strict=False):
        for log in sorted(one.family.folder.glob("log-*.jsonl")):
            plot_log(log, log.with_suffix(".png"))
        if card is not None:
            (one.family.folder / "model" / "README.md").write_text(filled_card(card, figures), encoding="utf-8")
    return figures


def _card_names(recipe: FamilyRecipe) -> list[str | None]:
    return [recipe.card, None if recipe.edge is None else recipe.edge.card]


def size(family: Family) -> dict[str, float]:
    """Parameters, bytes of the folder's weights, and how many parameters more than the adapters there would be with a
    tower of its own for each sense in the place of the layers before them."""
    from ostro.models.ostro.model import UnifiedDecoder

    files = (family.folder / "model").glob("*.safetensors")
    model = UnifiedDecoder(family.config)
    found = {"parameters": _count(model), "bytes": float(sum(file.stat().st_size for file in files))}
    if family.config.adapter is not None:
        shared = sum(_count(layer) for layer in model.layers[: family.config.adapter.layer])
        found["saved_parameters"] = len(family.config.encoders) * shared - _count(model.adapters)
    return found


def _count(module: nn.Module) -> float:
    return float(sum(parameter.numel() for parameter in module.parameters()))


def measure(family: Family, count: int, wordings: tuple[bool, ...] = (False, True)) -> dict[str, float]:
    """The written checkpoint, asked by the engine that serves it. wordings: True asks in those that are never
    trained on, and marks the figures `_new_words`."""
    from ostro.core.sampling import SamplingParams
    from ostro.engine.llm import LLM
    from ostro.training.judging import Answer, judge, prompt_of
    from ostro.training.senses.tasks import Manner

    llm = LLM(family.folder / "model", device="cpu")  # where rounded weights run
    assert llm.tokenizer is not None
    figures = {"examples": float(count)}
    asked = {"_new_words" if held else "": Manner(training=False, held_wordings=held) for held in wordings}
    passes = [(task, mark, manner) for mark, manner in asked.items() for task in family.recipe.joint.tasks]
    if "photo" in family.recipe.joint.tasks:
        passes.append(("photo", "_large", Manner(training=False, large=True)))
    for task, mark, manner in passes:
        if task == "text":
            continue
        examples = family.tasks({task: 1.0}, manner, seed=3).examples(0, count)
        prompts = [prompt_of(llm.tokenizer, example) for example in examples]
        outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=48))
        found = judge(examples, [Answer(output.text, output.labels) for output in outputs])
        figures |= {f"{name}{mark}": share for name, share in found.items()}
    return figures | (_nearest_captions(family, llm, count) if family.config.embedding else {})


def _nearest_captions(family: Family, llm: LLM, count: int) -> dict[str, float]:
    """For what is sensed alone, how often the nearest of its task's captions is its own, in the space of
    `/v1/embeddings`."""
    from ostro.core.media import MediaInput
    from ostro.training.senses.examples import Sensed
    from ostro.training.senses.tasks import Manner

    assert llm.tokenizer is not None
    figures = {}
    for task in ("photo", "digit", "series"):
        if task not in family.recipe.joint.tasks:
            continue
        examples = family.tasks({task: 1.0}, Manner(training=False), seed=3).examples(0, count)
        captions = sorted({example.caption for example in examples if example.caption is not None})
        shown = [next(part for part in one.messages[-1].parts if isinstance(part, Sensed)) for one in examples]
        media = [MediaInput.of(one.modality, one.array, one.grid) for one in shown]
        near_NC = llm.embed([llm.tokenizer.encode_media(one) for one in media]) @ llm.embed(captions).T
        right = [captions[best] == one.caption for best, one in zip(near_NC.argmax(1), examples, strict=True)]
        figures[f"{task}_embedding"] = sum(right) / len(right)
    return figures


def minutes(folder: Path) -> float:
    """That the steps took, of all stages, with those that were done again after a break."""
    rows = [json.loads(row) for log in folder.glob("log-*.jsonl") for row in log.read_text("utf-8").splitlines()]
    return sum(float(row["seconds"]) for row in rows) / 60


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


_MEASURED = ("accuracy", "grid_accuracy", "validation_loss")
_SHOWN = ("loss", "text", "labels", "contrast", *_MEASURED)
