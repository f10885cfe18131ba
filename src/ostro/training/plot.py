"""The curves of a run as a picture."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from ostro.core.errors import MissingExtraError

# Steps that the loss curve is averaged over: single batches differ too much to read.
SMOOTHING = 25


def check_plotting() -> None:
    """Raises MissingExtraError where `plot_log` would, before what it is to draw takes hours."""
    if find_spec("matplotlib") is None:
        raise MissingExtraError("The loss plot", "train")


def plot_log(log: Path, picture: Path) -> None:
    """Loss and validation accuracy over steps, from a run's log.jsonl. Raises MissingExtraError without matplotlib."""
    check_plotting()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # A run that was broken off repeats the steps since its last save: the later line counts.
    by_step = {row["step"]: row for row in map(json.loads, log.read_text(encoding="utf-8").splitlines())}
    rows = [by_step[step] for step in sorted(by_step)]
    figure, axis = pyplot.subplots(figsize=(8, 4.5))
    axis.plot([row["step"] for row in rows], _smooth([row["loss"] for row in rows]), color="tab:blue", label="loss")
    axis.set_xlabel("step")
    held = [row for row in rows if "validation_loss" in row]
    if held:
        steps = [row["step"] for row in held]
        axis.plot(
            steps, [row["validation_loss"] for row in held], color="tab:red", marker="o", label="validation: next token"
        )
    axis.set_ylabel("loss (nats)" if held else "training loss (nats)")
    measured = [row for row in rows if "accuracy" in row]
    if measured:
        right = axis.twinx()
        steps = [row["step"] for row in measured]
        right.plot(steps, [row["accuracy"] for row in measured], color="tab:orange", marker="o", label="accuracy")
        right.set_ylabel("validation accuracy")
        right.set_ylim(0, 1)
    figure.legend(loc="upper center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.94))  # the legend stands above what it explains
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)


def _smooth(values: list[float]) -> list[float]:
    smoothed = []
    for index in range(len(values)):
        window = values[max(0, index - SMOOTHING + 1) : index + 1]
        smoothed.append(sum(window) / len(window))
    return smoothed
