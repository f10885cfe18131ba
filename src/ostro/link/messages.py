"""What crosses the channel between a program and its engine process: tagged msgspec types, never pickle."""

from __future__ import annotations

import msgspec

from ostro.core.errors import (
    CheckpointError,
    ConfigError,
    InvalidRequestError,
    ModelNotFoundError,
    NotReadyError,
    OstroError,
    QueueFullError,
)
from ostro.core.media import MediaInput
from ostro.core.request import EngineRequest, EngineStats, ModelCard, TokensEvent


class WireError(msgspec.Struct, frozen=True, kw_only=True):
    """An error of the tree, flattened. `kind` is the nearest class that can be rebuilt on the other side."""

    kind: str
    message: str
    param: str | None = None
    code: str = "internal_error"
    retry_after: float | None = None

    @classmethod
    def of(cls, error: Exception) -> WireError:
        """An exception outside the tree becomes an `OstroError` that keeps its type's name in the message."""
        if not isinstance(error, OstroError):
            return cls(kind="OstroError", message=f"{type(error).__name__}: {error}")
        known = {*_KINDS, "QueueFullError", "NotReadyError"}
        kind = next(base.__name__ for base in type(error).__mro__ if base.__name__ in known)
        return cls(
            kind=kind,
            message=error.message,
            param=error.param,
            code=error.code,
            retry_after=getattr(error, "retry_after", None),
        )

    def rebuild(self) -> OstroError:
        error: OstroError
        if self.kind == "QueueFullError":
            error = QueueFullError(self.message, retry_after=self.retry_after or 1.0)
        elif self.kind == "NotReadyError":
            error = NotReadyError(self.message, retry_after=self.retry_after or 5.0)
        else:
            error = _KINDS.get(self.kind, OstroError)(self.message)
        error.param = self.param
        error.code = self.code
        return error

    @property
    def is_permanent(self) -> bool:
        """Whether loading again would end the same way."""
        return self.kind in {"ConfigError", "CheckpointError", "ModelNotFoundError"}


_KINDS: dict[str, type[OstroError]] = {
    "CheckpointError": CheckpointError,
    "ConfigError": ConfigError,
    "InvalidRequestError": InvalidRequestError,
    "ModelNotFoundError": ModelNotFoundError,
    "OstroError": OstroError,
}


class Provide(msgspec.Struct, frozen=True, tag="provide"):
    """An image or a sound that requests after this one hold, until `Withdraw`: it crosses once for all of them."""

    media: MediaInput


class Withdraw(msgspec.Struct, frozen=True, tag="withdraw"):
    """No request that comes holds this input."""

    digest: str


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """request: without its media, which were provided."""

    request: EngineRequest


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    request_id: str


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """Leave now; what runs is dropped."""


ToEngine = Provide | Withdraw | Submit | Abort | Shutdown


class Loading(msgspec.Struct, frozen=True, tag="loading"):
    """Progress of loading: `done` of `total` (tensors, bytes, …) and what is being done."""

    done: int
    total: int
    what: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    card: ModelCard


class Rejected(msgspec.Struct, frozen=True, tag="rejected"):
    """A request that the engine did not take."""

    request_id: str
    error: WireError


class Events(msgspec.Struct, frozen=True, tag="events"):
    """What one step gave, of every request at once, and where the engine stands after it."""

    events: list[TokensEvent]
    stats: EngineStats


class Fatal(msgspec.Struct, frozen=True, tag="fatal"):
    """The engine process ends because of this."""

    error: WireError


FromEngine = Loading | Ready | Rejected | Events | Fatal
