"""Tensor names of Pixtral 12B in the Hugging Face layout: as Mistral 3's."""

from __future__ import annotations

from ostro.models.mistral3.names import names, saved_names

__all__ = ["names", "saved_names"]
