"""What packages that must not import each other agree on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from ostro.core.request import EngineRequest, EngineStats, ModelCard, TokensEvent


class Generate(Protocol):
    """An engine as an asyncio program sees it, wherever it runs."""

    @property
    def card(self) -> ModelCard | None:
        """The loaded model; None while it is not ready."""

    @property
    def stats(self) -> EngineStats:
        """The newest snapshot received."""

    def submit(self, request: EngineRequest) -> AsyncIterator[TokensEvent]:
        """Queue the request at once and yield its events until one has a finish_reason.

        Closing the iterator early aborts the request and frees its blocks.
        Raises QueueFullError, NotReadyError, EngineDeadError, InvalidRequestError.
        """
