"""Tensor names of Ministral 3 checkpoints in the Hugging Face layout: Mistral's."""

from ostro.models.mistral.names import names

__all__ = ["names"]
