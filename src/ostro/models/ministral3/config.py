"""`model_type: ministral3`: as Mistral, with YaRN and query scaling in `rope_parameters`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ostro.models.config import DecoderConfig
from ostro.models.mistral import config as mistral


def parse(values: Mapping[str, Any]) -> DecoderConfig:
    """config.json -> DecoderConfig. Raises ConfigError for missing, wrong or unknown keys."""
    return dataclasses.replace(mistral.parse(values), architecture="ministral3")
