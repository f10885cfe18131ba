"""Calls as versions 2 to 7 write them: a JSON list, `[{"name": …, "arguments": {…}, "id": …}]`, behind one marker."""

from __future__ import annotations

import enum

from ostro.tokenizer.call_ids import is_template_id
from ostro.tokenizer.call_sink import Sink, Trailing
from ostro.tokenizer.json_values import JsonValue, read_string, read_unfinished_string
from ostro.tokenizer.named_calls import MAX_NAME

# Some models were taught OpenAI's word for the schema as the word for the value.
_ARGUMENTS = ("arguments", "parameters")


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
        self._rest: Trailing | None = None
        self._lead = ""  # of a list without a call so far: text, if there never is one
        self._calls = 0
        self._reset()

    def _reset(self) -> None:
        self._raw: list[str] = []  # of an object that is not announced yet: text, if it turns out to be none
        self._key = ""
        self._string = JsonValue()
        self._value = JsonValue()
        self._collected: list[str] = []
        self._name: str | None = None
        self._id: str | None = None
        self._held: str | None = None  # arguments that came before the name, or as a string
        self._index: int | None = None
        self._streaming = False

    def feed(self, text: str) -> None:
        for at, char in enumerate(text):
            if self._rest is not None:
                self._rest.feed(text[at:])
                return
            self._take(char)

    def close(self) -> None:
        """An object that is cut is a call as soon as its name is known."""
        if self._rest is not None or self._at in (_At.OPEN, _At.BETWEEN) or self._index is not None:
            return
        if self._name is None:
            self._end(self._unannounced)
            return
        if self._at is _At.VALUE and self._key in _ARGUMENTS and self._held is None:
            raw = "".join(self._collected)
            self._held = read_unfinished_string(raw) if raw.startswith('"') else raw
        self._sink.arguments(self._announce(self._name), self._held or "")

    @property
    def _unannounced(self) -> str:
        return self._lead + "".join(self._raw)

    def _announce(self, name: str) -> int:
        self._lead = ""
        self._calls += 1
        self._index = self._sink.start(name, self._id)
        return self._index

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
        elif char == "]" and self._at is _At.BETWEEN:
            self._rest = Trailing(self._sink, trim=True)
        elif char == "[" and self._at is _At.OPEN:
            self._at = _At.BETWEEN
            self._lead = char
        elif char.isspace() or (char == "," and self._at is _At.BETWEEN):
            self._lead += "" if self._calls else char
        else:
            self._end(self._lead + char)

    def _take_key(self, char: str) -> None:
        if self._string.begun:
            self._string.take(char)
            self._collected.append(char)
            if self._string.done:
                self._key = read_string("".join(self._collected)) or ""
                self._string, self._at = JsonValue(), _At.COLON
        elif char == '"':
            self._string.take(char)
            self._collected = [char]
        elif char == "}":
            self._end_object()
        elif not (char.isspace() or char == ","):
            self._break(char)

    def _take_value(self, char: str) -> None:
        begins = not self._value.begun and char in "{["
        if begins and self._key in _ARGUMENTS and self._index is None and self._held is None and self._name is not None:
            self._announce(self._name)
            self._streaming = True
        inside = self._value.take(char)
        if inside and self._streaming and self._index is not None:
            self._sink.arguments(self._index, char)
        elif inside:
            self._collected.append(char)
        if self._value.done:
            if not self._streaming:
                self._keep_value("".join(self._collected))
            self._streaming = False
            self._at = _At.KEY
            if not inside:  # the comma or bracket that ended a number
                self._take_key(char)

    def _keep_value(self, raw: str) -> None:
        if self._key == "name":
            name = (read_string(raw) or "").strip()
            self._name = name if 0 < len(name) <= MAX_NAME else None
        elif self._key == "id":
            given = read_string(raw) or ""
            self._id = given if is_template_id(given) else None
        elif self._key in _ARGUMENTS and self._held is None:
            # Arguments as a string that holds JSON are taken for what they mean, null for none.
            self._held = read_string(raw) if raw.startswith('"') else "{}" if raw == "null" else raw

    def _end_object(self) -> None:
        self._at = _At.BETWEEN
        if self._index is not None:
            return
        if self._name is None:
            self._end(self._unannounced)
            return
        self._sink.arguments(self._announce(self._name), self._held or "{}")

    def _break(self, char: str) -> None:
        """This is no list of calls: what has come of the object is text, and so is the rest."""
        self._end(self._unannounced if self._index is None else char)

    def _end(self, text: str) -> None:
        self._rest = Trailing(self._sink, trim=False)
        self._sink.text(text)
