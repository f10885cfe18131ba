"""`model_type: mistral3`: a decoder's config and an image encoder's inside one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ostro.core.errors import ConfigError
from ostro.models.config import DecoderConfig
from ostro.models.json_config import ConfigReader, read_dtype, read_eos
from ostro.models.ministral3 import config as ministral3
from ostro.models.mistral import config as mistral
from ostro.models.pixtral.config import IMAGE_TOKEN, PixtralConfig, parse_vision

TEXT_PARSERS: dict[str, Callable[[Mapping[str, Any]], DecoderConfig]] = {
    "mistral": mistral.parse,
    "ministral3": ministral3.parse,
}


def parse(values: Mapping[str, Any]) -> DecoderConfig:
    """config.json -> DecoderConfig, with an image encoder. Raises ConfigError for what it does not know.

    Whether the head is tied is taken from the JSON where it says so and left open otherwise: the reference's own
    default (tied) is wrong for published checkpoints.
    """
    reader = ConfigReader(values, "config.json (mistral3)")
    text = reader.section("text_config")
    if text is None:
        raise ConfigError("config.json (mistral3): the required key 'text_config' is missing.", param="text_config")
    tied = reader.flag("tie_word_embeddings")
    vision = reader.section("vision_config")
    projector = read_projector(reader)
    # As in llava, by whose classes older conversions were written.
    reader.expect("vision_feature_select_strategy", "full")
    merge = reader.integer("spatial_merge_size", 2, most=64)
    reader.ignore(("quantization_config", "compression_config"))
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
    encoders: tuple[PixtralConfig, ...] = ()
    if vision is not None:
        projector |= {"merge": merge, "projector_norm": True, "projector_norm_eps": config.rms_norm_eps}
        encoders = (parse_vision(vision, projector, "config.json (mistral3)"),)
    return dataclasses.replace(
        config,
        encoders=encoders,
        architecture="mistral3",
        dtype=config.dtype or read_dtype(values),
        eos_token_ids=config.eos_token_ids or read_eos(values),
    )


def read_projector(reader: ConfigReader, *, bias: bool = False) -> dict[str, Any]:
    """What stands beside `vision_config` about the way from the encoder to the decoder, as fields of PixtralConfig.

    bias: whether its layers have one where the config does not say. Raises ConfigError for features that are not those
    of the encoder's last layer.
    """
    reader.expect("vision_feature_layer", -1, [-1])
    given = reader.flag("multimodal_projector_bias")
    return {
        "projector_activation": reader.text("projector_hidden_act", "gelu"),
        "projector_bias": bias if given is None else given,
        "placeholder": reader.integer("image_token_index", IMAGE_TOKEN),
    }
