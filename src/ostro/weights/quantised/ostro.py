"""Ostro's own quantised checkpoints: a matrix in panels is `<name>.panels`, `.scales` and, by scheme, `.shifts` and
`.order`; docs/quantization.md describes them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ostro.core.errors import CheckpointError, ConfigError
from ostro.kernels.packed_linear.layout import Packed, Scheme, all_finite

METHOD = "ostro"
VERSION = 2
KEYS = ("quant_method", "version", "weights")
# Whole panels and blocks do not tell how far the last ones are filled: shapes are written down.
WEIGHT_KEYS = ("shape", "bits", "group_size", "shifted")


@dataclass(frozen=True)
class PackedWeight:
    """What config.json says of one weight: its scheme and its shape [O, I]."""

    scheme: Scheme
    shape: tuple[int, int]


def quantization_config(weights: Mapping[str, PackedWeight]) -> dict[str, Any]:
    """What config.json says of a checkpoint whose quantised weights, by name, are these."""
    return {
        "quant_method": METHOD,
        "version": VERSION,
        "weights": {name: _to_json(weight) for name, weight in weights.items()},
    }


def _to_json(weight: PackedWeight) -> dict[str, Any]:
    scheme = weight.scheme
    values = (list(weight.shape), scheme.bits, scheme.group_size, scheme.shifted)
    return dict(zip(WEIGHT_KEYS, values, strict=True))


def packed_tensors(name: str, packed: Packed) -> dict[str, torch.Tensor]:
    """What one weight is stored as."""
    stem = name.removesuffix(".weight")
    parts = {"panels": packed.panels, "scales": packed.scales, "shifts": packed.shifts, "order": packed.order}
    return {f"{stem}.{part}": values for part, values in parts.items() if values is not None}


class OstroReader:
    """Reads what `quantization_config` describes. Raises ConfigError where that is malformed or of another version, and
    CheckpointError where it describes weights that are not stored."""

    def __init__(self, config: Mapping[str, Any], tensors: Collection[str]) -> None:
        version, weights = config.get("version"), config.get("weights")
        if version != VERSION:
            raise ConfigError(
                f"The checkpoint is quantised in version {version!r} of Ostro's format; this Ostro reads version "
                f"{VERSION}. Update Ostro, or quantise the checkpoint again.",
                param="quantization_config",
            )
        if not isinstance(weights, dict):
            raise _malformed("'weights' must map the names of weights to their schemes and shapes")
        unknown = sorted(config.keys() - set(KEYS))
        if unknown:
            raise _malformed(f"its key {unknown[0]!r} is unknown; {', '.join(KEYS)} are known")
        self._weights = {name: _weight(name, value) for name, value in weights.items()}
        for name in self._weights:
            if self.parts(name)[0] not in tensors:
                raise CheckpointError(
                    f"The panels of '{name}' are missing, but the quantization_config names it; the checkpoint is "
                    "incomplete, or its config is of another one."
                )

    def parts(self, name: str) -> tuple[str, ...]:
        """The tensors of one weight; none where it is not quantised."""
        if name not in self._weights:
            return ()
        stem = name.removesuffix(".weight")
        return tuple(f"{stem}.{part}" for part in ("panels", "scales", "shifts", "order"))

    def read(self, name: str, read_tensor: Callable[[str], torch.Tensor | None], shape: tuple[int, int]) -> Packed:
        """One weight [O, I]. read_tensor gives None for a tensor that is not there."""
        scheme, stored = self._weights[name].scheme, self._weights[name].shape
        if stored != shape:
            raise CheckpointError(
                f"'{name}' has the shape {list(stored)}; the config asks for {list(shape)}. Its sizes, or the "
                "quantization_config, are of another checkpoint."
            )
        scheme.check(shape[1], f"'{name}'")
        panels, scales, shifts, order = (read_tensor(part) for part in self.parts(name))
        panels_shape, groups_shape = scheme.shapes(*shape)
        _check(name, "panels", panels, torch.uint8, panels_shape)
        _check(name, "scales", scales, torch.float16, groups_shape)
        if scheme.shifted:
            _check(name, "shifts", shifts, torch.float16, groups_shape)
        elif shifts is not None:
            raise CheckpointError(f"'{name}' has shifts, which its scheme does not know.")
        if order is not None:
            _check(name, "order", order, torch.int32, (shape[1],))
            if not torch.equal(order.sort().values, torch.arange(shape[1], dtype=torch.int32)):
                raise CheckpointError(f"The order of '{name}' is no permutation of its {shape[1]} inputs.")
        assert panels is not None
        assert scales is not None
        return Packed(scheme, shape[0], shape[1], panels, scales, shifts, order)


def _weight(name: str, value: Any) -> PackedWeight:
    if not isinstance(value, dict) or value.keys() != set(WEIGHT_KEYS):
        raise _malformed(f"what it says of {name!r} must be {', '.join(WEIGHT_KEYS)}")
    shape, bits, group_size, shifted = (value[key] for key in WEIGHT_KEYS)
    if not isinstance(shape, list) or len(shape) != 2 or any(type(size) is not int or size < 1 for size in shape):
        raise _malformed(f"the shape of {name!r} is not of two sizes")
    if type(bits) is not int or type(group_size) is not int or type(shifted) is not bool:
        raise _malformed(f"the scheme of {name!r} is not of two integers and a boolean")
    return PackedWeight(Scheme(bits, group_size, shifted), (shape[0], shape[1]))


def _malformed(why: str) -> ConfigError:
    return ConfigError(f"The quantization_config of the checkpoint is malformed: {why}.", param="quantization_config")


def _check(name: str, part: str, found: torch.Tensor | None, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if found is None:
        raise CheckpointError(f"The {part} of '{name}' are missing; the checkpoint is incomplete.")
    if found.dtype != dtype or tuple(found.shape) != shape:
        raise CheckpointError(
            f"The {part} of '{name}' are {list(found.shape)} of {str(found.dtype).removeprefix('torch.')}; the config "
            f"asks for {list(shape)} of {str(dtype).removeprefix('torch.')}."
        )
    if dtype == torch.float16 and not all_finite(found):
        raise CheckpointError(f"The {part} of '{name}' hold NaN or infinity; quantise the checkpoint again.")
