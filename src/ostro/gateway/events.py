"""Streams of events as nodes write them: cut into events, and what each says of tokens and of the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from ostro.core.errors import OstroError

MAX_EVENT_BYTES = 4 * 1024 * 1024

DONE = b"[DONE]"
# Events after which an answer is complete, of APIs that have names for them.
_LAST = frozenset({"response.completed", "response.incomplete", "response.failed", "message_stop"})


class BrokenStreamError(OstroError):
    """A node's stream is none."""

    status = 502
    code = "bad_upstream"


class EventCutter:
    """Bytes in, whole events out, each with the blank line that ends it."""

    def __init__(self) -> None:
        self._rest = b""

    def cut(self, data: bytes) -> Iterator[bytes]:
        """Raises BrokenStreamError for an event that does not end."""
        data = self._rest + data if self._rest else data
        if b"\r" in data:
            # A line may end in either way; a lone \r at the end waits for what follows it.
            tail = b"\r" if data.endswith(b"\r") else b""
            data = data.removesuffix(tail).replace(b"\r\n", b"\n") + tail
        start = 0
        while (end := data.find(b"\n\n", start)) >= 0:
            yield data[start : end + 2]
            start = end + 2
        self._rest = data[start:]
        if len(self._rest) > MAX_EVENT_BYTES:
            raise BrokenStreamError("The node sent an event that does not end.")

    @property
    def rest(self) -> bytes:
        """What has no end yet."""
        return self._rest


@dataclass(frozen=True)
class Counted:
    """prompt, completion: tokens, as a node tells them."""

    prompt: int
    completion: int


@dataclass(frozen=True)
class Said:
    """What an event says. pieces: of an answer that it holds, each a token or more. usage: so far, where it tells.
    last: whether the answer is complete with it. empty: whether it holds usage alone. payload: its JSON."""

    pieces: int = 0
    usage: Counted | None = None
    last: bool = False
    only_usage: bool = False
    failed: bool = False
    payload: dict[str, Any] | None = None


_COMMENT = Said()


def read_event(event: bytes) -> Said:
    """Raises BrokenStreamError for an event whose data is no JSON object."""
    data = data_of(event)
    if data is None:
        return _COMMENT
    if data == DONE:
        return Said(last=True)
    try:
        payload = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BrokenStreamError("The node sent an event that is no JSON.") from error
    if not isinstance(payload, dict):
        raise BrokenStreamError("The node sent an event that is no JSON object.")
    usage = usage_of(payload)
    choices = payload.get("choices")
    kind = payload.get("type")
    pieces = 0
    if isinstance(choices, list):
        pieces = sum(_has_piece(choice) for choice in choices)
    elif isinstance(kind, str) and kind.endswith("delta") and kind != "message_delta":
        pieces = 1
    return Said(
        pieces=pieces,
        usage=usage,
        last=kind in _LAST,
        only_usage=usage is not None and choices == [],
        failed=bool(payload.get("error")) or kind == "error",
        payload=payload,
    )


def data_of(event: bytes) -> bytes | None:
    """The data of an event, its lines joined; None for comments."""
    if event.startswith(b"data: ") and event.find(b"\n", 0, -2) < 0:
        return event[6:-2]
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def usage_of(payload: Mapping[str, Any]) -> Counted | None:
    """Tokens, wherever an API tells them; None where it does not, or tells what cannot be."""
    found = payload.get("usage")
    for inside in ("response", "message"):
        if found is None and isinstance(payload.get(inside), dict):
            found = payload[inside].get("usage")
    if not isinstance(found, dict):
        return None
    prompt = _count(found, "prompt_tokens", "input_tokens")
    completion = _count(found, "completion_tokens", "output_tokens")
    return None if prompt is None and completion is None else Counted(prompt or 0, completion or 0)


def _count(found: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = found.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
            return value
    return None


def _has_piece(choice: Any) -> bool:
    """Whether a choice of a chunk says anything: text, thoughts, or a piece of a call."""
    if not isinstance(choice, dict):
        return False
    delta = choice.get("delta")
    if isinstance(delta, dict):
        return any(delta.get(name) for name in ("content", "reasoning_content", "reasoning", "tool_calls"))
    return bool(choice.get("text"))
