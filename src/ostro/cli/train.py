"""`ostro train`: a recipe and a data folder to a checkpoint folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ostro.cli.cards import filled_card, read_card

EXAMPLE = "Example: ostro train recipes/ostro-nano.yaml --data DIR --out runs/ostro-nano"


def register(app: typer.Typer) -> None:
    app.command("train", help="Train a model from a recipe; a run that was broken off goes on.", epilog=EXAMPLE)(train)


def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe file (YAML).", exists=True, dir_okay=False)],
    data: Annotated[Path, typer.Option(help="Folder with the recipe's data files.", exists=True, file_okay=False)],
    out: Annotated[Path, typer.Option(help="Folder for the run: state, log, plot, and the checkpoint in model/.")],
    card: Annotated[Path | None, typer.Option(help="Model card template; {figures} are filled in.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the final figures as JSON.")] = False,
) -> None:
    import torch

    from ostro.engine.engine import pick_device
    from ostro.training.plot import check_plotting, plot_log
    from ostro.training.recipe import Recipe, convert, read_yaml
    from ostro.training.run import run_recipe

    values = read_yaml(recipe)
    # What can be told now is not told after hours.
    template = None if card is None else read_card(card)
    check_plotting()
    where = pick_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    if isinstance(values, dict) and values.get("kind") == "family":
        from ostro.cli.train_family import train_family

        _tell(train_family(values, recipe, data, out, where), out, template, as_json=as_json)
        return
    loaded = convert(values, Recipe, recipe)
    with _Watcher(loaded.train.steps) as watch:
        figures = run_recipe(loaded, data, out, watch=watch, device=where)
    plot_log(out / "log.jsonl", out / "loss.png")
    _tell(figures, out, template, as_json=as_json)


def _tell(figures: dict[str, float], out: Path, card: str | None, *, as_json: bool) -> None:
    """The card of the checkpoint, and what came of the run."""
    if card is not None:
        (out / "model" / "README.md").write_text(filled_card(card, figures), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps({"checkpoint": str(out / "model"), **figures}))
        return
    pictures = ", ".join(str(path) for path in sorted(out.glob("*.png")))
    typer.echo(f"checkpoint: {out / 'model'}\nlogs and curves: {out}, {pictures}")
    for name, value in figures.items():
        typer.echo(f"{name}: {value:.4g}")


class _Watcher:
    """A progress bar on a terminal; elsewhere a line now and then."""

    def __init__(self, steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._steps = steps
        self._accuracy = "-"
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("training", total=steps, figures="")

    def __enter__(self) -> _Watcher:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def __call__(self, step: int, figures: dict[str, float]) -> None:
        if "accuracy" in figures:
            self._accuracy = f"{figures['accuracy']:.1%}"
        shown = f"loss {figures['loss']:.3f}  accuracy {self._accuracy}"
        self._bar.update(self._task, completed=step, figures=shown)
        if not sys.stderr.isatty() and ("accuracy" in figures or step == self._steps):
            typer.echo(f"step {step}/{self._steps}  {shown}", err=True)
