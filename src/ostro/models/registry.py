"""Architectures by their `model_type`. Adding one is a config, a names table, a model and a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ostro.core.errors import ConfigError
from ostro.models import native
from ostro.models.config import DecoderConfig
from ostro.models.layers.decoder import Decoder
from ostro.models.llava import config as llava_config
from ostro.models.llava import model as llava_model
from ostro.models.llava import names as llava_names
from ostro.models.ministral import config as ministral_config
from ostro.models.ministral import model as ministral_model
from ostro.models.ministral import names as ministral_names
from ostro.models.ministral3 import config as ministral3_config
from ostro.models.ministral3 import model as ministral3_model
from ostro.models.ministral3 import names as ministral3_names
from ostro.models.mistral import config as mistral_config
from ostro.models.mistral import model as mistral_model
from ostro.models.mistral import names as mistral_names
from ostro.models.mistral3 import config as mistral3_config
from ostro.models.mistral3 import model as mistral3_model
from ostro.models.mistral3 import names as mistral3_names
from ostro.models.names import NamesTable
from ostro.models.ostro import config as ostro_config
from ostro.models.ostro import model as ostro_model
from ostro.models.ostro import names as ostro_names
from ostro.models.voxtral import config as voxtral_config
from ostro.models.voxtral import model as voxtral_model
from ostro.models.voxtral import names as voxtral_names

NamesFunction = Callable[[DecoderConfig], NamesTable]


@dataclass(frozen=True)
class Architecture:
    """parse: the checkpoint's JSON to a config. names: the layouts it is found in, the usual one first."""

    parse: Callable[[Mapping[str, Any]], DecoderConfig]
    names: tuple[NamesFunction, ...]
    model: type[Decoder]


ARCHITECTURES: dict[str, Architecture] = {
    "mistral": Architecture(mistral_config.parse, (mistral_names.names,), mistral_model.MODEL),
    "ministral": Architecture(ministral_config.parse, (ministral_names.names,), ministral_model.MODEL),
    "ministral3": Architecture(ministral3_config.parse, (ministral3_names.names,), ministral3_model.MODEL),
    "mistral3": Architecture(
        mistral3_config.parse,
        (mistral3_names.names, mistral3_names.saved_names),
        mistral3_model.MODEL,
    ),
    "voxtral": Architecture(
        voxtral_config.parse, (voxtral_names.names, voxtral_names.module_names), voxtral_model.MODEL
    ),
    "ostro": Architecture(ostro_config.parse, (ostro_names.names,), ostro_model.MODEL),
    "llava": Architecture(llava_config.parse, (llava_names.names, llava_names.saved_names), llava_model.MODEL),
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
