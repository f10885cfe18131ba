"""Tensor names of Mistral 3 checkpoints, and of others that put a decoder behind Pixtral's encoder."""

from __future__ import annotations

from ostro.models.config import DecoderConfig
from ostro.models.names import NamesTable, hf_names
from ostro.models.pixtral.config import PixtralConfig
from ostro.models.pixtral.names import hf_vision_names


def names(config: DecoderConfig) -> NamesTable:
    """As the hub's checkpoints name them."""
    return _with_images(NamesTable(hf_names(config, "language_model.model.", "language_model.lm_head.weight")), config)


def saved_names(config: DecoderConfig) -> NamesTable:
    """As transformers saves them since version 4.52."""
    return _with_images(NamesTable(hf_names(config, "model.language_model.")), config, "model.")


def _with_images(table: NamesTable, config: DecoderConfig, prefix: str = "") -> NamesTable:
    for encoder in config.encoders:
        assert isinstance(encoder, PixtralConfig)
        table = table.with_encoder(hf_vision_names(encoder, prefix))
    return table
