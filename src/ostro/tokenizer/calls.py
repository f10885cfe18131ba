"""Tool calls from the characters and markers after `[TOOL_CALLS]`, as they come.

Two forms exist. Versions 2 to 7 write a JSON list, `[{"name": …, "arguments": {…}, "id": …}]`; from version 11 on each
call has its own `[TOOL_CALLS]`, and its name, its id (11 only) and its arguments stand between markers:
`[TOOL_CALLS]name[CALL_ID]id[ARGS]{…}`. Which form it is shows at the first character, whatever a model's version.
What cannot be a call is text: nothing is lost.
"""

from __future__ import annotations

import enum
import json
import re
from typing import Protocol

MAX_NAME = 256

_ID = re.compile(r"[A-Za-z0-9]{9}")


class Sink(Protocol):
    """Where the parts go."""

    def text(self, text: str) -> None: ...

    def start(self, name: str, call_id: str | None) -> int:
        """A call begins; returns its index. The id is the model's, where it gave a valid one."""

    def arguments(self, index: int, text: str) -> None: ...


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


class _Trailing:
    """Text behind calls; white space between is nothing."""

    def __init__(self, sink: Sink, *, trim: bool) -> None:
        self._sink = sink
        self._trim = trim

    def feed(self, text: str) -> None:
        if self._trim:
            text = text.lstrip()
            self._trim = not text
        self._sink.text(text)


class CallReader:
    """One run of calls: from a `[TOOL_CALLS]` to the next, or to the end of the answer."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._form: ListForm | NamedForm | None = None

    def feed(self, text: str) -> None:
        if self._form is None:
            text = text.lstrip()
            if not text:
                return
            self._form = ListForm(self._sink) if text[0] in "[{" else NamedForm(self._sink)
        self._form.feed(text)

    def call_id(self) -> None:
        """The `[CALL_ID]` marker."""
        if isinstance(self._form, NamedForm):
            self._form.call_id()

    def args(self) -> None:
        """The `[ARGS]` marker."""
        if isinstance(self._form, NamedForm):
            self._form.args()

    def close(self) -> None:
        """Nothing more belongs to this run."""
        if self._form is not None:
            self._form.close()


class NamedForm:
    """name, `[CALL_ID]` id, `[ARGS]` arguments."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._name = ""
        self._id: str | None = None
        self._index: int | None = None
        self._value = JsonValue()
        self._rest: _Trailing | None = None

    def feed(self, text: str) -> None:
        if self._rest is not None:
            self._rest.feed(text)
        elif self._index is not None:
            self._arguments(text)
        elif self._id is not None:
            self._id += text
        else:
            self._name += text

    def call_id(self) -> None:
        if self._index is None and self._id is None:
            self._id = ""

    def args(self) -> None:
        if self._index is not None or self._rest is not None:
            return
        name, given = self._name.strip(), (self._id or "").strip()
        if not name or len(name) > MAX_NAME:
            self._give_up()
            return
        self._index = self._sink.start(name, given if _ID.fullmatch(given) else None)

    def close(self) -> None:
        if self._index is None and self._rest is None:
            self._give_up()

    def _arguments(self, text: str) -> None:
        assert self._index is not None
        begin = 0
        for at, char in enumerate(text):
            begin = at if not self._value.begun else begin
            inside = self._value.take(char)
            if self._value.done:
                end = at + inside
                self._sink.arguments(self._index, text[begin:end])
                self._rest = _Trailing(self._sink, trim=True)
                self._rest.feed(text[end:])
                return
        if self._value.begun:
            self._sink.arguments(self._index, text[begin:])

    def _give_up(self) -> None:
        self._rest = _Trailing(self._sink, trim=False)
        self._sink.text(self._name + (self._id or ""))


class _At(enum.Enum):
    """Where in the list a character is."""

    OPEN = enum.auto()
    BETWEEN = enum.auto()
    KEY = enum.auto()
    COLON = enum.auto()
    VALUE = enum.auto()


class ListForm:
    """A JSON list of objects, or one object alone. A call is announced as soon as its name is known and its
    arguments begin, so an id is the model's only where it came before them."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._at = _At.OPEN
        self._rest: _Trailing | None = None
        self._reset()

    def _reset(self) -> None:
        self._raw: list[str] = []  # of an object that is not announced yet: text, if it turns out to be none
        self._key = ""
        self._string = JsonValue()
        self._value = JsonValue()
        self._collected: list[str] = []
        self._name: str | None = None
        self._id: str | None = None
        self._held: str | None = None  # arguments that came before the name
        self._index: int | None = None

    def feed(self, text: str) -> None:
        for at, char in enumerate(text):
            if self._rest is not None:
                self._rest.feed(text[at:])
                return
            self._take(char)

    def close(self) -> None:
        if self._rest is None and self._at not in (_At.OPEN, _At.BETWEEN) and self._index is None:
            self._sink.text("".join(self._raw))

    def _take(self, char: str) -> None:
        if self._at in (_At.OPEN, _At.BETWEEN):
            self._outside(char)
            return
        if self._index is None:
            self._raw.append(char)
        match self._at:
            case _At.KEY:
                self._take_key(char)
            case _At.COLON:
                if char == ":":
                    self._value, self._collected, self._at = JsonValue(), [], _At.VALUE
                elif not char.isspace():
                    self._break(char)
            case _At.VALUE:
                self._take_value(char)

    def _outside(self, char: str) -> None:
        if char == "{":
            self._reset()
            self._raw, self._at = [char], _At.KEY
        elif char == "[" and self._at is _At.OPEN:
            self._at = _At.BETWEEN
        elif char == "]" and self._at is _At.BETWEEN:
            self._rest = _Trailing(self._sink, trim=True)
        elif not (char.isspace() or (char == "," and self._at is _At.BETWEEN)):
            self._end(char)

    def _take_key(self, char: str) -> None:
        if self._string.begun:
            self._string.take(char)
            self._collected.append(char)
            if self._string.done:
                self._key = _string("".join(self._collected)) or ""
                self._string, self._at = JsonValue(), _At.COLON
        elif char == '"':
            self._string.take(char)
            self._collected = [char]
        elif char == "}":
            self._end_object()
        elif not (char.isspace() or char == ","):
            self._break(char)

    def _take_value(self, char: str) -> None:
        if not self._value.begun and self._key == "arguments" and self._name is not None and char in "{[":
            self._index = self._sink.start(self._name, self._id)
        inside = self._value.take(char)
        if inside:
            if self._index is not None and self._key == "arguments":
                self._sink.arguments(self._index, char)
            else:
                self._collected.append(char)
        if self._value.done:
            self._keep_value("".join(self._collected))
            self._at = _At.KEY
            if not inside:  # the comma or bracket that ended a number
                self._take_key(char)

    def _keep_value(self, raw: str) -> None:
        if self._key == "name":
            self._name = _string(raw)
        elif self._key == "id":
            given = _string(raw) or ""
            self._id = given if _ID.fullmatch(given) else None
        elif self._key == "arguments" and self._index is None:
            # Arguments as a string that holds JSON are taken for what they mean.
            self._held = _string(raw) if raw.startswith('"') else raw

    def _end_object(self) -> None:
        self._at = _At.BETWEEN
        if self._index is not None:
            return
        if not self._name or len(self._name) > MAX_NAME:
            self._end("".join(self._raw))
            return
        self._sink.arguments(self._sink.start(self._name, self._id), self._held or "{}")

    def _break(self, char: str) -> None:
        """This is no list of calls: what has come of the object is text, and so is the rest."""
        self._end("".join(self._raw) if self._index is None else char)

    def _end(self, text: str) -> None:
        self._rest = _Trailing(self._sink, trim=False)
        self._sink.text(text)


def _string(raw: str) -> str | None:
    """The text of a JSON string; None for what is none."""
    try:
        value = json.loads(raw)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
