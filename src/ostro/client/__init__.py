"""The SDK: `Client` and `AsyncClient` over HTTP. Torch-free, and light at import.

>>> from ostro import Client
>>> Client(api_key="k").infer(inputs={"text": "Where is my card?"}, mode="auto").text   # doctest: +SKIP
"""

from __future__ import annotations

from ostro.client.asynchronous import AsyncChatStream, AsyncClient
from ostro.client.failures import error_of
from ostro.client.results import ChatDelta, ChatResult, InferResult, ToolCallDelta
from ostro.client.settings import DEFAULT_TIMEOUT_S
from ostro.client.sync import ChatStream, Client
from ostro.core.request import ToolCall

__all__ = [
    "DEFAULT_TIMEOUT_S",
    "AsyncChatStream",
    "AsyncClient",
    "ChatDelta",
    "ChatResult",
    "ChatStream",
    "Client",
    "InferResult",
    "ToolCall",
    "ToolCallDelta",
    "error_of",
]
