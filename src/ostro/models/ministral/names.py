"""Tensor names of Ministral checkpoints in the Hugging Face layout: Mistral's."""

from ostro.models.mistral.names import names

__all__ = ["names"]
