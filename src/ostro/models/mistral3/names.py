"""Tensor names of Mistral 3 checkpoints: the text part's; the image part's are known and left out."""

from __future__ import annotations

from ostro.models.config import DecoderConfig
from ostro.models.names import NamesTable, hf_names

_IMAGE_PART = (
    "vision_tower.",
    "multi_modal_projector.",
    "model.vision_tower.",
    "model.multi_modal_projector.",
)


def names(config: DecoderConfig) -> NamesTable:
    """As the hub's checkpoints name them."""
    return NamesTable(hf_names(config, "language_model.model.", "language_model.lm_head.weight"), _IMAGE_PART)


def saved_names(config: DecoderConfig) -> NamesTable:
    """As transformers saves them since version 4.52."""
    return NamesTable(hf_names(config, "model.language_model."), _IMAGE_PART)
