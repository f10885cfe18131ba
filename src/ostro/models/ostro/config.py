"""`model_type: ostro`: a dense decoder's config, and what may be switched on beside it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ostro.core.errors import ConfigError
from ostro.models.config import DecoderConfig, EncoderConfig
from ostro.models.json_config import ConfigReader
from ostro.models.mistral import config as mistral
from ostro.models.ostro.stems import StemConfig

# What tokens can be of, in the order of their numbers.
MODALITIES = ("text", "image", "audio", "series")
TEXT = MODALITIES.index("text")
_WHERE = "config.json (ostro)"


@dataclass(frozen=True)
class AdapterConfig:
    """Residual bottlenecks of so many channels, one for each sense, behind the first `layer` layers."""

    layer: int
    width: int


@dataclass(frozen=True)
class GateConfig:
    """How many channels of a feed-forward layer run for a token.

    widths: channels at each level, ascending; the last is all of them. layer: the gate reads the stream in front of
    this layer; layers before it run at the first level. Tokens of other senses than text always run at the last.
    thresholds: a token rises above level i where its score i is above threshold i.
    """

    layer: int
    widths: tuple[int, ...]
    thresholds: tuple[float, ...]


@dataclass(frozen=True)
class LabelGroup:
    """Labels of which one holds, or none."""

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class OstroConfig(DecoderConfig):
    """Everything off is a dense decoder, tensor by tensor.

    adapter, gate: None is off. routing: attention weighs the senses of what it sees. labels: groups that a head tells
    probabilities of. embedding: size of the vectors that all senses share; 0 has none.
    """

    adapter: AdapterConfig | None = None
    gate: GateConfig | None = None
    routing: bool = False
    labels: tuple[LabelGroup, ...] = ()
    embedding: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_adapter()
        self._check_gate()
        if self.routing and self.unrotated * 2 < len(MODALITIES):
            raise ConfigError(
                f"routing needs {len(MODALITIES) // 2} unrotated pairs of a head's dimensions, not {self.unrotated}.",
                param="unrotated",
            )
        names = [encoder.modality for encoder in self.encoders]
        if len(set(names)) < len(names) or not set(names) <= set(MODALITIES[1:]):
            raise ConfigError(f"Encoders must be one for each of {', '.join(MODALITIES[1:])}.", param="encoders")
        for group in self.labels:
            if not group.labels or len(set(group.labels)) < len(group.labels):
                raise ConfigError(f"The label group '{group.name}' is empty or names a label twice.", param="labels")

    def _check_adapter(self) -> None:
        adapter = self.adapter
        if adapter is not None and not (1 <= adapter.layer < self.num_layers and 1 <= adapter.width <= 1 << 16):
            raise ConfigError(
                f"adapter: layer={adapter.layer} must be from 1 to {self.num_layers - 1}, and width={adapter.width} at "
                "least 1.",
                param="adapter",
            )

    def _check_gate(self) -> None:
        gate = self.gate
        if gate is None:
            return
        ascending = all(first < second for first, second in zip(gate.widths, gate.widths[1:], strict=False))
        if len(gate.widths) < 2 or gate.widths[0] < 1 or not ascending or gate.widths[-1] != self.intermediate_size:
            raise ConfigError(
                f"gate: widths={list(gate.widths)} must be two or more, ascending, the last of them "
                f"intermediate_size={self.intermediate_size}.",
                param="gate",
            )
        if not 1 <= gate.layer < self.num_layers:
            raise ConfigError(f"gate: layer={gate.layer} must be from 1 to {self.num_layers - 1}.", param="gate")
        if len(gate.thresholds) != len(gate.widths) - 1 or not all(map(math.isfinite, gate.thresholds)):
            raise ConfigError("gate: there must be one finite threshold between any two widths.", param="gate")


def parse(values: Mapping[str, Any]) -> DecoderConfig:
    """config.json -> OstroConfig. Raises ConfigError for missing, wrong or unknown keys."""
    own = {name: values.get(name) for name in ("encoders", "adapter", "gate", "labels")}
    options = ConfigReader({name: values.get(name) for name in ("routing", "embedding_size", "unrotated")}, _WHERE)
    rest = {
        name: value for name, value in values.items() if name not in {*own, "routing", "embedding_size", "unrotated"}
    }
    dense = mistral.parse(rest, mistral.DEFAULTS)
    fields = {field.name: getattr(dense, field.name) for field in dataclasses.fields(dense)}
    embedding, unrotated = options.optional("embedding_size") or 0, options.optional("unrotated") or 0
    for name, value in (("embedding_size", embedding), ("unrotated", unrotated)):
        if type(value) is not int or not 0 <= value <= 1 << 16:
            raise ConfigError(f"{_WHERE}: '{name}' must be a whole number, not {value!r}.", param=name)
    return OstroConfig(
        **{
            **fields,
            "architecture": "ostro",
            "encoders": _encoders(own["encoders"]),
            "unrotated": unrotated,
            "adapter": _adapter(own["adapter"]),
            "gate": _gate(own["gate"]),
            "routing": options.flag("routing") is True,
            "labels": _labels(own["labels"]),
            "embedding": embedding,
        }
    )


def to_json(config: OstroConfig) -> dict[str, Any]:
    """What `parse` reads, beside the keys of the dense decoder."""
    values: dict[str, Any] = {
        "routing": config.routing,
        "unrotated": config.unrotated,
        "embedding_size": config.embedding,
        "encoders": {one.modality: one.to_json() for one in config.encoders if isinstance(one, StemConfig)},
        "labels": {group.name: list(group.labels) for group in config.labels},
    }
    if config.adapter is not None:
        values["adapter"] = dataclasses.asdict(config.adapter)
    if config.gate is not None:
        values["gate"] = {
            "layer": config.gate.layer,
            "widths": list(config.gate.widths),
            "thresholds": list(config.gate.thresholds),
        }
    return values


def _encoders(value: object) -> tuple[EncoderConfig, ...]:
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise ConfigError(f"{_WHERE}: 'encoders' must be an object of encoders by sense.", param="encoders")
    return tuple(StemConfig.parse(str(name), one) for name, one in value.items())


def _adapter(value: object) -> AdapterConfig | None:
    if value is None:
        return None
    reader = _section(value, "adapter")
    adapter = AdapterConfig(reader.integer("layer"), reader.integer("width"))
    reader.finish()
    return adapter


def _gate(value: object) -> GateConfig | None:
    if value is None:
        return None
    reader = _section(value, "gate")
    widths, thresholds = reader.optional("widths"), reader.optional("thresholds")
    if not _numbers(widths, int) or not _numbers(thresholds, (int, float)):
        raise ConfigError(f"{_WHERE}: gate needs 'widths' and 'thresholds', lists of numbers.", param="gate")
    gate = GateConfig(reader.integer("layer"), tuple(widths), tuple(float(one) for one in thresholds))
    reader.finish()
    return gate


def _labels(value: object) -> tuple[LabelGroup, ...]:
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise ConfigError(f"{_WHERE}: 'labels' must be an object of lists by name.", param="labels")
    groups = []
    for name, labels in value.items():
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise ConfigError(f"{_WHERE}: labels['{name}'] must be a list of strings.", param="labels")
        groups.append(LabelGroup(str(name), tuple(labels)))
    return tuple(groups)


def _section(value: object, name: str) -> ConfigReader:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{_WHERE}: '{name}' must be a JSON object, not {value!r}.", param=name)
    return ConfigReader(value, f"{_WHERE}: {name}")


def _numbers(value: object, kind: type | tuple[type, ...]) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(isinstance(one, kind) and not isinstance(one, bool) for one in value)
    )
