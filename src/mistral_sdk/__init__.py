"""Published names of Ostro's parts, for examples that were written against them. Resolved on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ostro.client import AsyncClient, ChatDelta, ChatResult, Client, InferResult
    from ostro.core.errors import OstroError
    from ostro.core.sampling import SamplingParams
    from ostro.training.senses.contrast import ContrastiveLoss

_HOMES = {
    "AsyncClient": "ostro.client",
    "ChatDelta": "ostro.client",
    "ChatResult": "ostro.client",
    "Client": "ostro.client",
    "ContrastiveLoss": "ostro.training.senses.contrast",
    "InferResult": "ostro.client",
    "OstroError": "ostro.core.errors",
    "SamplingParams": "ostro.core.sampling",
}

__all__ = [
    "AsyncClient",
    "ChatDelta",
    "ChatResult",
    "Client",
    "ContrastiveLoss",
    "InferResult",
    "OstroError",
    "SamplingParams",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'mistral_sdk' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
