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

    def abort(self) -> None:
        """Cancel the request if it is not finished, which frees its blocks. May be called again."""


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


class EngineService(Generate, Protocol):
    """A `Generate` that somebody starts and ends."""

    @property
    def reason(self) -> str:
        """Why requests are not taken now; empty where they are."""

    @property
    def retry_after(self) -> float:
        """Seconds after which a request that is not taken now may be."""

    @property
    def failed(self) -> bool:
        """Whether it does not run, and is not started again by itself."""

    @property
    def resident_bytes(self) -> int | None:
        """Main memory that it takes now; None where that is not known."""

    def start(self) -> None:
        """Begin to load, and return at once. A closed one may be started again."""

    async def wait_ready(self) -> ModelCard:
        """Wait until the model is loaded. Raises what made loading fail, once it is not tried again."""

    async def drain(self, grace_s: float) -> bool:
        """Take nothing new and let what runs finish; False where some of it did not in `grace_s` seconds."""

    async def close(self) -> None:
        """End the engine. Requests that still run get an error."""
