"""Changing checkpoint folders for tests, and the logits of what is loaded from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ostro.models.layers.context import DenseContext
from ostro.models.layers.decoder import Decoder

IDS = torch.randint(3, 128, (70,), generator=torch.Generator().manual_seed(5))


def logits(model: Decoder, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        return model.logits(model(ids, torch.arange(len(ids)), DenseContext()))


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object], name: str = "config.json") -> None:
    values = json.loads((folder / name).read_text())
    change(values)
    (folder / name).write_text(json.dumps(values))


def edit_tensors(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], object], name: str = "model.safetensors"
) -> dict[str, torch.Tensor]:
    tensors = load_file(folder / name)
    change(tensors)
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    save_file(tensors, folder / name, metadata={"format": "pt"})
    return tensors
