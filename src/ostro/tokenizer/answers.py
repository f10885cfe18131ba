"""What an answer is made of once its tokens are understood: text, reasoning, tool calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Text:
    """More of the answer proper."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of what the model thought before it answered."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A tool call begins. index: 0 for the answer's first call. id: nine alphanumerics."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments, as JSON text."""

    index: int
    text: str


Part = Text | Reasoning | CallStart | CallArguments


class Parsed(NamedTuple):
    """What one push added.

    parts: in order; neighbours of one kind are one part. stopped: a stop string is complete, the answer has ended.
    consumed: how many of the pushed ids are part of the answer. reasoning: how many of those were reasoning tokens.
    """

    parts: list[Part]
    stopped: bool
    consumed: int
    reasoning: int
