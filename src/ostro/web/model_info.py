"""What `/v1/models` tells of a model, for the API's description."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType


class Capabilities(msgspec.Struct):
    """As Mistral's API names them; audio beside them."""

    completion_chat: bool
    function_calling: bool
    completion_fim: bool
    reasoning: bool
    fine_tuning: bool
    vision: bool
    audio: bool


class ModelInfo(msgspec.Struct, kw_only=True):
    """OpenAI's fields, Mistral's `max_context_length` and `capabilities`, and what the engine tells once it is loaded.

    state: whether it is in memory. reason: why it does not answer now.
    """

    id: str
    object: Literal["model"]
    type: Literal["base"]
    created: int
    owned_by: str
    ready: bool
    state: str
    reason: str | None
    capabilities: Capabilities
    max_context_length: int | UnsetType = UNSET
    max_model_len: int | UnsetType = UNSET
    architecture: str | UnsetType = UNSET
    parameters: int | UnsetType = UNSET
    dtype: str | UnsetType = UNSET
    device: str | UnsetType = UNSET


class ModelList(msgspec.Struct):
    object: Literal["list"]
    data: list[ModelInfo]
