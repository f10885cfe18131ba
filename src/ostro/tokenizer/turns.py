"""What a conversation is made of once it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ostro.core.errors import InvalidRequestError
from ostro.core.media import MediaInput

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class Call:
    """A tool call of the conversation. id: nine alphanumerics. arguments: JSON text of an object, or of
    something else where that is what a model wrote."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Thought:
    """What an assistant thought, at its place among the texts. closed: the thought is over."""

    text: str
    closed: bool = True


Part = str | Thought | MediaInput


@dataclass(frozen=True)
class Turn:
    """One message. parts: texts, thoughts and media in order. unfinished: the answer goes on from here.

    calls: an assistant's. call_id, name: which call a tool's result belongs to.
    """

    role: Role
    parts: tuple[Part, ...] = ()
    unfinished: bool = False
    calls: tuple[Call, ...] = ()
    call_id: str = ""
    name: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(part for part in self.parts if isinstance(part, str))

    @property
    def is_empty(self) -> bool:
        return not self.calls and not any(part.text if isinstance(part, Thought) else part for part in self.parts)

    @property
    def media(self) -> tuple[MediaInput, ...]:
        return tuple(part for part in self.parts if isinstance(part, MediaInput))


def indefinite(modality: str) -> str:
    """One of a modality, in words."""
    return f"a {modality}" if modality == "series" else f"an {modality}"


def refusal(reason: str, param: str = "messages") -> InvalidRequestError:
    return InvalidRequestError(reason, param=param)
