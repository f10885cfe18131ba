"""`model_type: ministral`: a window or full attention, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ostro.core.errors import ConfigError
from ostro.models.config import DecoderConfig
from ostro.models.json_config import ConfigReader, read_dtype, read_eos, read_rope
from ostro.models.mistral.config import DEFAULT_THETA, DEFAULTS, read_shape


def parse(values: Mapping[str, Any]) -> DecoderConfig:
    """config.json -> DecoderConfig. Raises ConfigError for missing, wrong or unknown keys."""
    reader = ConfigReader({**DEFAULTS, **values}, "config.json (ministral)")
    shape = read_shape(reader)
    theta, yarn, query_scaling = read_rope(reader, DEFAULT_THETA)
    window = reader.window()
    kinds = reader.words("layer_types")
    if kinds is None:
        kinds = ["sliding_attention" if window else "full_attention"] * shape["num_layers"]
    for kind in kinds:
        if kind not in ("sliding_attention", "full_attention") or (kind == "sliding_attention" and not window):
            raise ConfigError(
                f"config.json (ministral): layer type {kind!r} with sliding_window={window or None} is not "
                "understood; 'sliding_attention' (with a window) and 'full_attention' are.",
                param="layer_types",
            )
    reader.ignore(("quantization_config", "compression_config"))
    reader.finish()
    return DecoderConfig(
        architecture="ministral",
        **shape,
        rope_theta=theta,
        yarn=yarn,
        query_scaling=query_scaling,
        windows=tuple(window if kind == "sliding_attention" else 0 for kind in kinds),
        dtype=read_dtype(values),
        eos_token_ids=read_eos(values),
    )
