"""Tensor names of Mistral checkpoints in the Hugging Face layout."""

from __future__ import annotations

from ostro.models.config import DecoderConfig
from ostro.models.names import NamesTable, hf_names


def names(config: DecoderConfig) -> NamesTable:
    return NamesTable(hf_names(config))
