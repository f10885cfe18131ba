"""Ostro: run, adapt and govern Mistral-family models on the hardware you have.

Names are resolved on first use (PEP 562), so that `import ostro` stays fast and torch-free.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ostro.client import AsyncClient, Client, InferResult
    from ostro.core.errors import OstroError
    from ostro.core.sampling import SamplingParams
    from ostro.engine.llm import LLM

__version__ = "0.1.0"

_HOMES = {
    "LLM": "ostro.engine.llm",
    "SamplingParams": "ostro.core.sampling",
    "OstroError": "ostro.core.errors",
    "Client": "ostro.client",
    "AsyncClient": "ostro.client",
    "InferResult": "ostro.client",
}

__all__ = ["LLM", "AsyncClient", "Client", "InferResult", "OstroError", "SamplingParams", "__version__"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'ostro' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
