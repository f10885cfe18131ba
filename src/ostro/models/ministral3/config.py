"""`model_type: ministral3`: as Mistral, with YaRN and query scaling in `rope_parameters`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ostro.core.errors import ConfigError
from ostro.models.config import DecoderConfig
from ostro.models.mistral import config as mistral

# As in mistral/config.py. Rotary parameters have no default here: the reference's (YaRN) would be a guess.
DEFAULTS: Mapping[str, Any] = {"sliding_window": None, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "head_dim": 128}


def parse(values: Mapping[str, Any]) -> DecoderConfig:
    """config.json -> DecoderConfig. Raises ConfigError for missing, wrong or unknown keys."""
    if not values.get("rope_parameters") and not values.get("rope_scaling"):
        raise ConfigError(
            "config.json (ministral3): the required key 'rope_parameters' is missing.", param="rope_parameters"
        )
    return dataclasses.replace(mistral.parse(values, DEFAULTS), architecture="ministral3")
