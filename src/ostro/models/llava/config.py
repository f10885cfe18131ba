"""`model_type: llava` with Pixtral's image encoder: Pixtral 12B on the hub."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ostro.core.errors import ConfigError
from ostro.models.config import DecoderConfig
from ostro.models.json_config import ConfigReader, read_dtype, read_eos
from ostro.models.mistral import config as mistral
from ostro.models.mistral3.config import read_projector
from ostro.models.pixtral.config import parse_vision

_WHERE = "config.json (llava)"
# What the reference takes for keys that Pixtral 12B's text_config leaves out.
_TEXT_DEFAULTS: Mapping[str, Any] = {**mistral.DEFAULTS, "num_attention_heads": 32}


def parse(values: Mapping[str, Any]) -> DecoderConfig:
    """config.json -> DecoderConfig, with an image encoder. Raises ConfigError for what it does not know, among it every
    llava model that is not made of Pixtral's encoder and a Mistral decoder."""
    reader = ConfigReader(values, _WHERE)
    text, vision = reader.section("text_config"), reader.section("vision_config")
    for section, name, kind in ((text, "text_config", "mistral"), (vision, "vision_config", "pixtral")):
        found = None if section is None else section.get("model_type")
        if found != kind:
            raise ConfigError(
                f"{_WHERE}: {name} has model_type {found!r}; of the llava models those with '{kind}' there are "
                "supported, which are Pixtral's.",
                param="model_type",
            )
    assert text is not None
    assert vision is not None
    tied = reader.flag("tie_word_embeddings")
    # "default" drops the first patch, which is a class token in other encoders.
    reader.expect("vision_feature_select_strategy", "full")
    projector = read_projector(reader, bias=True)
    # ignore_index marks labels that a loss leaves out.
    reader.ignore(("image_seq_length", "ignore_index", "quantization_config", "compression_config"))
    reader.finish()
    config = mistral.parse(text, _TEXT_DEFAULTS)
    if config.tie_word_embeddings is None or tied is not None:
        config = dataclasses.replace(config, tie_word_embeddings=tied)
    return dataclasses.replace(
        config,
        architecture="llava",
        encoders=(parse_vision(vision, projector, _WHERE),),
        dtype=config.dtype or read_dtype(values),
        eos_token_ids=config.eos_token_ids or read_eos(values),
    )
