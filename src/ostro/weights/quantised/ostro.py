"""Ostro's own quantised checkpoints: a matrix in panels is `<name>.panels`, `.scales` and, by scheme, `.shifts` and
`.order`; docs/quantization.md describes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ostro.core.errors import CheckpointError, ConfigError
from ostro.kernels.packed_linear.layout import Packed, Scheme, all_finite

METHOD = "ostro"
VERSION = 1


def scheme_to_json(scheme: Scheme) -> dict[str, Any]:
    return {"bits": scheme.bits, "group_size": scheme.group_size, "shifted": scheme.shifted}


def quantization_config(schemes: Mapping[str, Scheme]) -> dict[str, Any]:
    """What config.json says of a checkpoint whose weights, by name, have these schemes."""
    return {
        "quant_method": METHOD,
        "version": VERSION,
        "weights": {name: scheme_to_json(scheme) for name, scheme in schemes.items()},
    }


def packed_tensors(name: str, packed: Packed) -> dict[str, torch.Tensor]:
    """What one weight is stored as."""
    stem = name.removesuffix(".weight")
    parts = {"panels": packed.panels, "scales": packed.scales, "shifts": packed.shifts, "order": packed.order}
    return {f"{stem}.{part}": values for part, values in parts.items() if values is not None}


class OstroReader:
    """Reads what `quantization_config` describes. Raises ConfigError where that is malformed or newer."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        version, weights = config.get("version"), config.get("weights")
        if version != VERSION:
            raise ConfigError(
                f"The checkpoint is quantised in version {version!r} of Ostro's format; this Ostro reads version "
                f"{VERSION}. Update Ostro, or quantise the checkpoint again.",
                param="quantization_config",
            )
        if not isinstance(weights, dict):
            raise _malformed("'weights' must map the names of weights to schemes")
        self.schemes = {name: _scheme(name, value) for name, value in weights.items()}

    def parts(self, name: str) -> tuple[str, ...]:
        """The tensors of one weight; none where it is not quantised."""
        if name not in self.schemes:
            return ()
        stem = name.removesuffix(".weight")
        return tuple(f"{stem}.{part}" for part in ("panels", "scales", "shifts", "order"))

    def read(self, name: str, read_tensor: Callable[[str], torch.Tensor | None], shape: tuple[int, int]) -> Packed:
        """One weight [O, I]. read_tensor gives None for a tensor that is not there."""
        scheme = self.schemes[name]
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


def _scheme(name: str, value: Any) -> Scheme:
    if not isinstance(value, dict) or value.keys() != {"bits", "group_size", "shifted"}:
        raise _malformed(f"the scheme of {name!r} must have bits, group_size and shifted")
    bits, group_size, shifted = value["bits"], value["group_size"], value["shifted"]
    if type(bits) is not int or type(group_size) is not int or type(shifted) is not bool:
        raise _malformed(f"the scheme of {name!r} is not of two integers and a boolean")
    return Scheme(bits, group_size, shifted)


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
