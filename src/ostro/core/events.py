"""Typed events that the engine emits to a sink it is given; it never knows who watches."""

from __future__ import annotations

from typing import Protocol

import msgspec


class RequestQueued(msgspec.Struct, frozen=True):
    request_id: str
    prompt_tokens: int
    time: float


class RequestScheduled(msgspec.Struct, frozen=True):
    request_id: str
    cached_tokens: int
    time: float


class RequestPreempted(msgspec.Struct, frozen=True):
    request_id: str
    time: float


class RequestFinished(msgspec.Struct, frozen=True):
    request_id: str
    reason: str
    prompt_tokens: int
    completion_tokens: int
    time: float


class StepFinished(msgspec.Struct, frozen=True):
    """One engine step. Times in seconds; `overhead` is what was not the model's forward pass or sampling."""

    tokens: int
    sequences: int
    total: float
    overhead: float


Event = RequestQueued | RequestScheduled | RequestPreempted | RequestFinished | StepFinished


class EventSink(Protocol):
    """Takes events on the engine's thread: must be quick and must not raise."""

    def __call__(self, event: Event) -> None: ...


def discard(event: Event) -> None:
    """The sink for when nobody watches."""
