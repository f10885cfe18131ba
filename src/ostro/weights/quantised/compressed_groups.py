"""What the config of a compressed-tensors folder says: which layers are quantised, and how.

`config_groups` gives each group its `targets` and how their weights are stored; `ignore` lists layers that are left
out (compressed-tensors, quantization/quant_config.py and quant_args.py). Both name layers by their name, by "re:" and a
pattern, or by their class (utils/match.py). How activations are quantised is of no interest: kernels here do that in
their own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ostro.core.errors import ConfigError
from ostro.kernels.packed_linear.layout import Scheme
from ostro.weights.quantised.matrix import scheme_of
from ostro.weights.quantised.patterns import Pattern

PACKED = "pack-quantized"
PLAIN = ("int-quantized", "naive-quantized")  # One layout; the second is its older name.
STRATEGIES = ("group", "channel")
PATTERN = "re:"
# What "actorder" may be, and whether groups were made by activation, so that weight_g_idx is needed: otherwise only
# the order of rounding was by activation, and columns lie as they were (ActivationOrdering in quant_args.py).
ACT_ORDERS = {"group": True, "dynamic": True, "weight": False, "static": False}


@dataclass(frozen=True)
class Group:
    """Layers that are quantised alike. packed: stored in words of 32 bits instead of int8. scheme: not shifted.
    act_order: inputs were put into groups by activation."""

    targets: tuple[str | Pattern, ...]
    scheme: Scheme
    symmetric: bool
    packed: bool
    act_order: bool


@dataclass(frozen=True)
class Groups:
    """The groups of a checkpoint whose weights are integers, and the layers that none of them takes."""

    groups: tuple[Group, ...]
    ignore: tuple[str | Pattern, ...]

    def find(self, layer: str) -> Group | None:
        """The group of a layer, by what fits it most closely: its name, a pattern, its class."""
        if any(_closeness(target, layer) for target in self.ignore):
            return None
        best: tuple[int, Group] | None = None
        for group in self.groups:
            closeness = max((_closeness(target, layer) for target in group.targets), default=0)
            if closeness > (best[0] if best else 0):
                best = closeness, group
        return best[1] if best else None


def read_groups(config: Mapping[str, Any]) -> Groups:
    """Raises ConfigError for what is malformed or not supported; groups of FP8 weights, which the loader multiplies
    out by itself, are left out."""
    for key in ("sparsity_config", "transform_config"):
        _refuse_extra(key, config.get(key))
    entries = config.get("config_groups")
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise _malformed("'config_groups' must map names to groups")
    groups = (_group(name, entry, config.get("format")) for name, entry in entries.items())
    return Groups(tuple(group for group in groups if group is not None), _targets("ignore", config.get("ignore") or []))


def _group(name: str, entry: Mapping[str, Any], default_format: object) -> Group | None:
    weights = entry.get("weights")
    if weights is None:
        return None
    if not isinstance(weights, dict):
        raise _malformed(f"the 'weights' of {name!r} must be a JSON object")
    kind, bits = weights.get("type", "int"), weights.get("num_bits", 8)
    if (kind, bits) == ("float", 8):
        return None
    if kind != "int":
        raise _unsupported(
            f"weights of type {kind!r} with {bits!r} bits", "int with 4 or 8 bits, and float with 8, are"
        )
    form = entry.get("format") or default_format
    if form != PACKED and form not in PLAIN:
        raise _unsupported(f"the format {form!r}", f"{', '.join((PACKED, *PLAIN))} are")
    symmetric = weights.get("symmetric", True)
    if type(symmetric) is not bool:
        raise _malformed(f"'symmetric' of {name!r} must be true or false")
    targets = _targets(f"the targets of {name!r}", entry.get("targets"))
    act_order = _act_order(weights.get("actorder"))
    return Group(targets, scheme_of(bits, _group_size(weights)), symmetric, form == PACKED, act_order)


def _act_order(value: object) -> bool:
    if value is None or isinstance(value, bool):  # An older way to say "group".
        return bool(value)
    if not isinstance(value, str) or value.lower() not in ACT_ORDERS:
        raise _unsupported(f"the activation order {value!r}", f"{', '.join(map(repr, ACT_ORDERS))} are")
    return ACT_ORDERS[value.lower()]


def _group_size(weights: Mapping[str, Any]) -> object:
    size = weights.get("group_size")
    # Where none is named, the strategy follows from the group size: none is one scale for the whole tensor.
    implied = "tensor" if size is None else "channel" if size == -1 else "group"
    strategy = weights.get("strategy") or implied
    if strategy not in STRATEGIES:
        raise _unsupported(f"the strategy {strategy!r}", f"{' and '.join(STRATEGIES)} are")
    return -1 if strategy == "channel" else size


def _closeness(target: str | Pattern, layer: str) -> int:
    """3 for the layer's name, 2 for a pattern of it, 1 for its class, 0 for neither."""
    if isinstance(target, Pattern):
        return 2 if target.matches(layer) else 0
    if target == layer:
        return 3
    return int(target == ("Embedding" if layer.endswith("embed_tokens") else "Linear"))


def _targets(what: str, value: object) -> tuple[str | Pattern, ...]:
    if not isinstance(value, list) or not all(isinstance(target, str) for target in value):
        raise _malformed(f"{what} must be a list of strings")
    return tuple(Pattern(target.removeprefix(PATTERN)) if target.startswith(PATTERN) else target for target in value)


def _refuse_extra(key: str, value: object) -> None:
    """Empty ones, and a sparsity that says dense, change nothing."""
    if value and not (isinstance(value, dict) and value.get("format") == "dense"):
        raise _unsupported(f"'{key}' ({str(value)[:100]})", "weights that are neither sparse nor transformed are")


def _unsupported(what: str, supported: str) -> ConfigError:
    return ConfigError(
        f"The checkpoint's compressed-tensors config has {what}, which is not supported; {supported}.",
        param="quantization_config",
    )


def _malformed(why: str) -> ConfigError:
    return ConfigError(f"The quantization_config of the checkpoint is malformed: {why}.", param="quantization_config")
