"""`model_type: mistral3`: a text config inside a multimodal one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ostro.core.errors import ConfigError
from ostro.models.config import DecoderConfig
from ostro.models.json_config import ConfigReader, read_dtype, read_eos
from ostro.models.ministral3 import config as ministral3
from ostro.models.mistral import config as mistral

TEXT_PARSERS: dict[str, Callable[[Mapping[str, Any]], DecoderConfig]] = {
    "mistral": mistral.parse,
    "ministral3": ministral3.parse,
}


def parse(values: Mapping[str, Any]) -> DecoderConfig:
    """config.json -> the text part's DecoderConfig. Raises ConfigError for what it does not know.

    Whether the head is tied is taken from the JSON where it says so and left open otherwise: the reference's own
    default (tied) is wrong for published checkpoints.
    """
    reader = ConfigReader(values, "config.json (mistral3)")
    text = reader.section("text_config")
    if text is None:
        raise ConfigError("config.json (mistral3): the required key 'text_config' is missing.", param="text_config")
    tied = reader.flag("tie_word_embeddings")
    reader.ignore(
        (
            "vision_config",
            "image_token_index",
            "projector_hidden_act",
            "vision_feature_layer",
            "multimodal_projector_bias",
            "spatial_merge_size",
            "quantization_config",
            "compression_config",
        )
    )
    reader.finish()
    kind = text.get("model_type", "mistral")
    if not isinstance(kind, str) or kind not in TEXT_PARSERS:
        raise ConfigError(
            f"config.json (mistral3): text_config has model_type {kind!r}; supported are "
            f"{', '.join(sorted(TEXT_PARSERS))}.",
            param="model_type",
        )
    config = TEXT_PARSERS[kind](text)
    if config.tie_word_embeddings is None or tied is not None:
        config = dataclasses.replace(config, tie_word_embeddings=tied)
    return dataclasses.replace(
        config,
        architecture="mistral3",
        dtype=config.dtype or read_dtype(values),
        eos_token_ids=config.eos_token_ids or read_eos(values),
    )
