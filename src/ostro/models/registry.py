"""Architectures by their `model_type`. Adding one is a config, a names table, a model and a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ostro.models.ministral.config
import ostro.models.ministral.model
import ostro.models.ministral.names
import ostro.models.ministral3.config
import ostro.models.ministral3.model
import ostro.models.ministral3.names
import ostro.models.mistral.config
import ostro.models.mistral.model
import ostro.models.mistral.names
import ostro.models.mistral3.config
import ostro.models.mistral3.model
import ostro.models.mistral3.names
from ostro import models
from ostro.core.errors import ConfigError
from ostro.models import native
from ostro.models.config import DecoderConfig
from ostro.models.layers.decoder import Decoder
from ostro.models.names import NamesTable

NamesFunction = Callable[[DecoderConfig], NamesTable]


@dataclass(frozen=True)
class Architecture:
    """parse: the checkpoint's JSON to a config. names: the layouts it is found in, the usual one first."""

    parse: Callable[[Mapping[str, Any]], DecoderConfig]
    names: tuple[NamesFunction, ...]
    model: type[Decoder]


ARCHITECTURES: dict[str, Architecture] = {
    "mistral": Architecture(models.mistral.config.parse, (models.mistral.names.names,), models.mistral.model.MODEL),
    "ministral": Architecture(
        models.ministral.config.parse, (models.ministral.names.names,), models.ministral.model.MODEL
    ),
    "ministral3": Architecture(
        models.ministral3.config.parse, (models.ministral3.names.names,), models.ministral3.model.MODEL
    ),
    "mistral3": Architecture(
        models.mistral3.config.parse,
        (models.mistral3.names.names, models.mistral3.names.saved_names),
        models.mistral3.model.MODEL,
    ),
}

NATIVE = Architecture(native.parse, (native.names,), Decoder)


def find(model_type: object) -> Architecture:
    """The architecture of a config.json. Raises ConfigError naming what is supported."""
    if isinstance(model_type, str) and model_type in ARCHITECTURES:
        return ARCHITECTURES[model_type]
    raise ConfigError(
        f"config.json has model_type {model_type!r}; supported are {', '.join(sorted(ARCHITECTURES))}.",
        param="model_type",
    )
