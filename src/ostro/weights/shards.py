"""Writes checkpoints shard by shard, aligned so that a shard can be mapped and multiplied where it lies.

A shard is a safetensors file. Its header is filled up with spaces, as the format allows, until the data begins at a
whole page, and tensors of whole cache lines come first, so that these begin at whole cache lines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from ostro.weights.safetensors_file import DTYPES

PAGE = 4096
CACHE_LINE = 64
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class ShardWriter:
    """Shards of one folder, and the index that says which tensor is in which."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shards: list[list[str]] = []
        self.size = 0

    def write(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """One more shard; its tensors, contiguous and on the CPU, are not needed afterwards."""
        if tensors:
            self.size += write_safetensors(self._path(len(self._shards)), tensors)
            self._shards.append(list(tensors))

    def finish(self) -> None:
        """Give the shards the names that the field's tools expect, and write their index."""
        count = len(self._shards)
        weight_map: dict[str, str] = {}
        for index, names in enumerate(self._shards):
            final = f"model-{index + 1:05}-of-{count:05}.safetensors"
            self._path(index).rename(self._folder / final)
            weight_map |= dict.fromkeys(names, final)
        values = {"metadata": {"total_size": self.size}, "weight_map": dict(sorted(weight_map.items()))}
        (self._folder / "model.safetensors.index.json").write_text(json.dumps(values, indent=2) + "\n")

    def _path(self, index: int) -> Path:
        return self._folder / f"shard-{index}.part"


def write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> int:
    """Write one file through to the disk; returns the bytes of its tensors."""
    names = sorted(tensors, key=lambda name: (tensors[name].nbytes % CACHE_LINE != 0, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in names:
        tensor = tensors[name]
        end = at + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % PAGE)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in names:
            file.write(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())
    return at
