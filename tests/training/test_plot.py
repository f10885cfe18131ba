"""Curves as pictures: what the log has is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ostro.training.plot import plot_log

BLUE, ORANGE, RED = (31, 119, 180), (255, 127, 14), (214, 39, 40)  # matplotlib's


def drawn(tmp_path: Path, **measured: float) -> dict[str, int]:
    """How many pixels have each colour."""
    log = tmp_path / "log.jsonl"
    rows = [{"step": step, "loss": 5 - step / 50, "seconds": 1.0} for step in range(1, 101)]
    for row in rows[19::20]:
        row.update(measured)
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plot_log(log, tmp_path / "log.png")
    pixels = np.asarray(Image.open(tmp_path / "log.png").convert("RGB"))
    colours = {"blue": BLUE, "orange": ORANGE, "red": RED}
    return {name: int((pixels == colour).all(-1).sum()) for name, colour in colours.items()}


@pytest.mark.parametrize(
    ("measured", "colours"),
    [({}, {"blue"}), ({"accuracy": 0.7}, {"blue", "orange"}), ({"validation_loss": 4.0}, {"blue", "red"})],
)
def test_what_was_measured_is_drawn(tmp_path: Path, measured: dict[str, float], colours: set[str]) -> None:
    found = drawn(tmp_path, **measured)
    assert {name for name, count in found.items() if count > 100} == colours
