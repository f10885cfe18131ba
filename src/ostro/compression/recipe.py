"""Which matrix is quantised how: a scheme and a method for all, and rules for some, by name."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import msgspec

from ostro.compression.schemes import scheme_of
from ostro.core.errors import ConfigError
from ostro.kernels.packed_linear.layout import Scheme

Rounding = Literal["nearest", "weighted", "gptq"]
Scaling = Literal["none", "awq", "smoothquant"]
Grouping = Literal["contiguous", "correlated"]
DENSE = "dense"

# What `--method` stands for.
METHODS: dict[str, tuple[Rounding, Scaling]] = {
    "rtn": ("nearest", "none"),
    "weighted": ("weighted", "none"),
    "gptq": ("gptq", "none"),
    "awq": ("nearest", "awq"),
    "awq+gptq": ("gptq", "awq"),
    "smoothquant": ("nearest", "smoothquant"),
    "smoothquant+gptq": ("gptq", "smoothquant"),
}


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For weights whose name matches: shell wildcards, with or without `.weight` at the end; `dense` keeps them."""

    match: str
    scheme: str | None = None
    rounding: Rounding | None = None
    grouping: Grouping | None = None

    def matches(self, name: str) -> bool:
        return fnmatchcase(name, self.match) or fnmatchcase(name.removesuffix(".weight"), self.match)


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """scheme: int4, int8, int4-g128, int4-g64-shifted, … rounding: to the nearest value; with inputs' squares as
    weights; or GPTQ. scaling: what is folded into norms and projections before. The first rule that matches a name
    counts, and what it leaves open is as for all."""

    scheme: str = "int4"
    rounding: Rounding = "nearest"
    scaling: Scaling = "none"
    grouping: Grouping = "contiguous"
    search: bool = True
    damping: float = 0.01
    act_order: bool = False
    layers: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.damping < math.inf:
            raise ConfigError(f"damping must be a number above 0, not {self.damping}.", param="damping")


class Treatment(msgspec.Struct, frozen=True):
    """What becomes of one matrix; without a scheme it stays as it is."""

    scheme: Scheme | None
    rounding: Rounding
    grouping: Grouping


def treatments(recipe: Recipe, matrices: dict[str, tuple[int, int]]) -> dict[str, Treatment]:
    """The treatment of each matrix [O, I] by its name.

    Raises ConfigError for unknown schemes, for groups that do not divide a row, for a rule that nothing matches and
    for settings that contradict each other.
    """
    used: set[int] = set()
    chosen = {name: _treatment(recipe, name, used) for name in matrices}
    for index, rule in enumerate(recipe.layers):
        if index not in used:
            raise ConfigError(
                f"The rule for '{rule.match}' is used by no weight: none has such a name, or an earlier rule takes "
                f"them. Names look like '{next(iter(matrices))}'.",
                param="layers",
            )
    for name, treatment in chosen.items():
        if treatment.scheme is not None:
            treatment.scheme.check(matrices[name][1], f"'{name}'")
    _check_settings(recipe, [treatment for treatment in chosen.values() if treatment.scheme is not None])
    schemes = [treatment.scheme for treatment in chosen.values() if treatment.scheme is not None]
    if not schemes:
        raise ConfigError("Every weight stays dense by this recipe, so there is nothing to quantise.", param="layers")
    if recipe.scaling == "smoothquant" and all(scheme.bits != 8 for scheme in schemes):
        raise ConfigError("SmoothQuant is for weights of 8 bits; take int8, or awq for 4 bits.", param="scaling")
    return chosen


def _check_settings(recipe: Recipe, quantised: list[Treatment]) -> None:
    """Raises ConfigError for what was asked for and would change nothing."""
    if recipe.act_order and all(t.rounding != "gptq" or t.grouping == "correlated" for t in quantised):
        raise ConfigError(
            "act_order is the order in which GPTQ takes columns; it needs rounding: gptq and contiguous groups.",
            param="act_order",
        )
    wanted = [t for t in quantised if t.grouping == "correlated"]
    if wanted and all(t.scheme is not None and not t.scheme.group_size for t in wanted):
        raise ConfigError(
            "Columns are sorted into groups, but this scheme has one group a row; take a scheme with groups, such as "
            "int4-g64.",
            param="grouping",
        )


def _treatment(recipe: Recipe, name: str, used: set[int]) -> Treatment:
    for index, rule in enumerate(recipe.layers):
        if rule.matches(name):
            used.add(index)
            return Treatment(
                _scheme(rule.scheme or recipe.scheme),
                rule.rounding or recipe.rounding,
                rule.grouping or recipe.grouping,
            )
    return Treatment(_scheme(recipe.scheme), recipe.rounding, recipe.grouping)


def _scheme(name: str) -> Scheme | None:
    return None if name == DENSE else scheme_of(name)


def needs_inputs(recipe: Recipe) -> bool:
    """Whether calibration text is run through the model."""
    parts: tuple[Recipe | Rule, ...] = (recipe, *recipe.layers)
    return recipe.scaling != "none" or any(
        part.rounding not in (None, "nearest") or part.grouping == "correlated" for part in parts
    )


def load_recipe(path: Path) -> Recipe:
    """A YAML file. Raises ConfigError naming the key that is unknown or wrong."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The recipe {path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"The recipe {path} is not YAML: {error}") from error
    try:
        return msgspec.convert(values, Recipe)
    except msgspec.ValidationError as error:
        raise ConfigError(f"The recipe {path}: {error}.") from error
