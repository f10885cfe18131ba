"""The weights of safetensors files: dense ones, FP8 with per-tensor scales, and quantised ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ostro.core.errors import CheckpointError
from ostro.weights import quantised
from ostro.weights.checkpoint import Checkpoint, Weight, WeightInfo
from ostro.weights.finite import require_finite
from ostro.weights.safetensors_file import SafetensorsFile, TensorEntry

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
# Per-tensor scales that a stored weight is multiplied by, under the names that the layouts give them; and scales
# of activations, which weights that are dequantised have no use for.
WEIGHT_SCALES = (".weight_scale_inv", ".weight_scale", ".qscale_weight")
ACTIVATION_SCALES = (".activation_scale", ".input_scale", ".qscale_act", ".k_scale", ".v_scale", ".kv_scale")


@dataclass(frozen=True)
class _Stored:
    file: SafetensorsFile
    entry: TensorEntry

    @property
    def place(self) -> tuple[str, int]:
        return self.file.path.name, self.entry.offset

    def called(self, name: str) -> str:
        """What errors call the tensor."""
        return f"{self.file.path.name}: '{name}'"


class SafetensorsWeights(Checkpoint):
    """Files of one checkpoint. quantization: what its config says about how weights are stored, if anything."""

    def __init__(self, origin: str, files: Sequence[Path], quantization: dict[str, Any] | None) -> None:
        self.origin = origin
        self._stack = ExitStack()
        try:
            self._stored = self._open_all(files)
            self._reader = quantised.find(quantization, self._stored.keys()) if quantization else None
            self._mappable = isinstance(self._reader, quantised.ostro.OstroReader)
        except BaseException:  # whatever it was, no open file stays
            self.close()
            raise

    def close(self) -> None:
        self._stack.close()

    def info(self, name: str) -> WeightInfo | None:
        stored = self._stored.get(name)
        parts = self._parts(name)
        if parts:
            size = sum(self._stored[part].entry.size for part in parts)
            return WeightInfo(None, None, size, min(self._stored[part].place for part in parts))
        if stored is None:
            return None
        return WeightInfo(stored.entry.shape, stored.entry.dtype, stored.entry.size, stored.place)

    def left(self, taken: set[str]) -> set[str]:
        left = self._stored.keys() - taken
        for name in taken:
            left -= self._parts(name)
            # A scale beside a weight that is not FP8 has no meaning here: it stays unaccounted for, which is an error.
            fp8 = name in self._stored and self._stored[name].entry.dtype in FP8
            suffixes = (*WEIGHT_SCALES, *ACTIVATION_SCALES) if fp8 else ACTIVATION_SCALES
            stem = name.removesuffix(".weight")
            left -= {stem + suffix for suffix in suffixes}
        return left

    def read(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Weight:
        if self._reader is not None and self._parts(name):
            assert len(shape) == 2
            return self._reader.read(name, self._part, (shape[0], shape[1]))
        stored = self._stored[name]
        self._check_type(name, stored)
        value = stored.file.read(stored.entry)
        if stored.entry.dtype in FP8:
            return self._dequantise(value, name, stored, dtype)
        require_finite(stored.called(name), value)
        return value

    def read_into(self, name: str, target: torch.Tensor) -> None:
        stored = self._stored[name]
        self._check_type(name, stored)
        stored.file.read_into(stored.entry, target)
        require_finite(stored.called(name), target)

    def _open_all(self, files: Sequence[Path]) -> dict[str, _Stored]:
        stored: dict[str, _Stored] = {}
        for path in files:
            file = self._stack.enter_context(SafetensorsFile(path))
            for name, entry in file.tensors.items():
                if name in stored:
                    raise CheckpointError(f"'{name}' is in both {stored[name].file.path.name} and {path.name}.")
                stored[name] = _Stored(file, entry)
        return stored

    def _parts(self, name: str) -> set[str]:
        """The tensors that a quantised weight is made of; none where it is not quantised."""
        return set() if self._reader is None else set(self._reader.parts(name)) & self._stored.keys()

    def _part(self, name: str) -> torch.Tensor | None:
        """A part of a quantised weight: mapped where it is multiplied as it is stored."""
        stored = self._stored.get(name)
        if stored is None or not self._mappable:
            return self._read(name)
        return stored.file.map(stored.entry)

    def _read(self, name: str) -> torch.Tensor | None:
        stored = self._stored.get(name)
        return None if stored is None else stored.file.read(stored.entry)

    def _check_type(self, name: str, stored: _Stored) -> None:
        if not stored.entry.dtype.is_floating_point:
            raise CheckpointError(
                f"{stored.file.path.name}: '{name}' holds {_plain(stored.entry.dtype)}, but the config names no "
                "quantised format that it could belong to. Its quantization_config is missing or wrong."
            )

    def _dequantise(self, value: torch.Tensor, name: str, stored: _Stored, dtype: torch.dtype) -> torch.Tensor:
        """FP8 times its static per-tensor scale, in float32 row blocks so that no whole copy in float32 exists."""
        stem = name.removesuffix(".weight")
        scale_name = next((stem + suffix for suffix in WEIGHT_SCALES if stem + suffix in self._stored), None)
        if scale_name is None:
            raise CheckpointError(
                f"{stored.file.path.name}: '{stem}.weight' is FP8, but its scale is missing (looked for "
                f"{', '.join(stem + suffix for suffix in WEIGHT_SCALES)})."
            )
        scale_tensor = self._read(scale_name)
        assert scale_tensor is not None
        scale = scale_tensor.float()
        if scale.numel() != 1:
            raise CheckpointError(
                f"{stored.file.path.name}: '{scale_name}' has the shape {list(scale.shape)}; only per-tensor scales "
                "(one number) are supported."
            )
        if not torch.isfinite(scale):
            raise CheckpointError(
                f"{stored.file.path.name}: the scale '{scale_name}' is {scale.item()}; a finite number is expected. "
                "The file is damaged: download it again."
            )
        out = torch.empty(value.shape, dtype=dtype)
        for rows, block in _row_blocks(value):
            out[rows] = block.float() * scale.reshape(())
        require_finite(stored.called(name), out)
        return out


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _row_blocks(value: torch.Tensor, elements: int = 1 << 20) -> Iterator[tuple[slice, torch.Tensor]]:
    rows = max(1, elements // max(1, value[0].numel()))
    for start in range(0, value.shape[0], rows):
        yield slice(start, start + rows), value[start : start + rows]
