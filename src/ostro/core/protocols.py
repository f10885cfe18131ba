"""What packages that must not import each other agree on."""

from __future__ import annotations

from typing import Protocol

from ostro.core.request import EngineRequest, EngineStats, ModelCard, TokensEvent


class EventStream(Protocol):
    """The events of one request, until one has a finish_reason."""

    def __aiter__(self) -> EventStream: ...

    async def __anext__(self) -> TokensEvent:
        """What has come since the last call, as one event: tokens of several steps are merged.

        Raises QueueFullError, EngineDeadError, NotReadyError, InvalidRequestError in place of the events.
        """

    async def aclose(self) -> None:
        """Abort the request if it is not finished, and free its blocks. May be called again."""


class Generate(Protocol):
    """An engine as an asyncio program sees it, wherever it runs."""

    @property
    def card(self) -> ModelCard | None:
        """The loaded model; None while it is not ready."""

    @property
    def stats(self) -> EngineStats:
        """The newest snapshot received."""

    def submit(self, request: EngineRequest) -> EventStream:
        """Queue the request at once. Raises NotReadyError; what the engine itself refuses comes from the stream."""
