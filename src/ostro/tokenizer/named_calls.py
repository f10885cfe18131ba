"""Calls as versions from 11 on write them: `[TOOL_CALLS]name[CALL_ID]id[ARGS]{…}`, one marker a call."""

from __future__ import annotations

from ostro.tokenizer.call_ids import is_template_id
from ostro.tokenizer.call_sink import Sink, Trailing
from ostro.tokenizer.json_values import JsonValue
from ostro.tokenizer.tools import FUNCTION_NAME

MAX_NAME = 256


class NamedForm:
    """name, `[CALL_ID]` id, `[ARGS]` arguments. A name with its arguments right behind it is a call without `[ARGS]`.

    Arguments that are no JSON object or list go up to the next marker: they are the client's to refuse.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._name = ""
        self._id: str | None = None
        self._index: int | None = None
        self._value = JsonValue()
        self._loose = False
        self._blank = ""
        self._rest: Trailing | None = None

    def feed(self, text: str) -> None:
        if self._rest is not None:
            self._rest.feed(text)
        elif self._index is not None:
            self._arguments(self._index, text)
        elif self._id is not None:
            self._id += text
        else:
            self._take_name(text)

    def call_id(self) -> None:
        if self._index is None and self._id is None and self._rest is None:
            self._id = ""

    def args(self) -> None:
        if self._index is not None or self._rest is not None:
            return
        name, given = self._name.strip(), (self._id or "").strip()
        if not name:
            self._give_up()
            return
        self._index = self._sink.start(name, given if is_template_id(given) else None)

    def close(self) -> None:
        if self._index is None and self._rest is None:
            self._give_up()

    def _take_name(self, text: str) -> None:
        before, brace, arguments = text.partition("{")
        name = self._name + before
        if brace and FUNCTION_NAME.fullmatch(name.strip()):
            self._name = name
            self.args()
            self.feed(brace + arguments)
            return
        self._name += text
        if len(self._name.strip()) > MAX_NAME:
            self._give_up()

    def _arguments(self, index: int, text: str) -> None:
        if not self._value.begun:
            text = text.lstrip()
            self._loose = bool(text) and text[0] not in "{["
        if self._loose:
            self._value.begun = True
            text = self._blank + text
            said = text.rstrip()
            self._blank = text[len(said) :]
            self._sink.arguments(index, said)
            return
        for at, char in enumerate(text, 1):
            self._value.take(char)
            if self._value.done:
                self._sink.arguments(index, text[:at])
                self._rest = Trailing(self._sink, trim=True)
                self._rest.feed(text[at:])
                return
        self._sink.arguments(index, text)

    def _give_up(self) -> None:
        self._rest = Trailing(self._sink, trim=False)
        self._sink.text(self._name + (self._id or ""))
