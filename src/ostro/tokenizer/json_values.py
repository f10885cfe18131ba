"""JSON values whose characters come one by one."""

from __future__ import annotations

import json

from ostro.tokenizer.base import replace_surrogates

_LONGEST_ESCAPE = len("\\u0000")


class JsonValue:
    """Finds the end of one JSON value, character by character. It checks the brackets' depth, not the grammar."""

    def __init__(self) -> None:
        self.begun = False
        self.done = False
        self._depth = 0
        self._string = False
        self._escaped = False
        self._scalar = False

    def take(self, char: str) -> bool:
        """Whether `char` belongs to the value. White space before it does not; `done` once it is complete."""
        if not self.begun:
            if char.isspace():
                return False
            self.begun = True
            self._scalar = char not in '{["'
        if self._string:
            self._in_string(char)
        elif char == '"':
            self._string = True
        elif char in "{[":
            self._depth += 1
        elif self._scalar and (char in ",}]" or char.isspace()):
            self.done = True
            return False
        elif char in "}]":
            self._depth -= 1
        self.done = not self._string and self._depth == 0 and not self._scalar
        return True

    def _in_string(self, char: str) -> None:
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._string = False


def read_string(raw: str) -> str | None:
    """The text of a JSON string, as UTF-8 can carry it; None for what is none."""
    try:
        value = json.loads(raw, strict=False)  # models write line breaks into strings as they are
    except (ValueError, RecursionError):
        return None
    return replace_surrogates(value) if isinstance(value, str) else None


def read_unfinished_string(raw: str) -> str:
    """The text of a JSON string whose end is missing; half an escape at its end is left out."""
    for cut in range(min(_LONGEST_ESCAPE, len(raw))):
        text = read_string(raw[: len(raw) - cut] + '"')
        if text is not None:
            return text
    return ""
