"""The state of a run on disk: safetensors and JSON, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ostro.core.errors import TrainingError

STATE = "state.safetensors"
META = "state.json"


def save_state(folder: Path, step: int, fingerprint: str, tensors: dict[str, torch.Tensor]) -> None:
    """Atomic: the JSON names the tensors' file, and replaces its predecessor in one rename."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"state-{step}.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / f"{name}.part")
    (folder / f"{name}.part").replace(folder / name)
    meta = folder / f"{META}.part"
    meta.write_text(json.dumps({"step": step, "recipe": fingerprint, "tensors": name}), encoding="utf-8")
    meta.replace(folder / META)
    for old in folder.glob("state-*.safetensors"):
        if old.name != name:
            old.unlink()


def load_state(folder: Path, fingerprint: str) -> tuple[int, dict[str, torch.Tensor]] | None:
    """The step and tensors of a run that was broken off here, or None.

    Raises TrainingError where it was another run.
    """
    path = folder / META
    if not path.is_file():
        return None
    meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if meta["recipe"] != fingerprint:
        raise TrainingError(
            f"{folder} holds a run of another recipe or other data. Give another --out, or delete the folder to "
            "start anew."
        )
    return int(meta["step"]), load_file(folder / str(meta["tensors"]))


def optimiser_tensors(name: str, optimiser: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    """Moments and step counts by parameter index."""
    for index, state in optimiser.state_dict()["state"].items():
        for key, value in state.items():
            yield f"{name}.{index}.{key}", torch.as_tensor(value)


def restore_optimiser(name: str, optimiser: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for path, value in under(f"{name}.", tensors).items():
        index, key = path.split(".")
        state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those whose names begin with it, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
