"""Tool calls from the characters and markers after `[TOOL_CALLS]`, as they come.

Two forms exist: `listed_calls.py` reads that of versions 2 to 7, `named_calls.py` that of version 11 and later. Which
it is shows at the first character, whatever a model's version. What cannot be a call is text: nothing is lost.
"""

from __future__ import annotations

from ostro.tokenizer.call_sink import Sink
from ostro.tokenizer.listed_calls import ListForm
from ostro.tokenizer.named_calls import NamedForm


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
