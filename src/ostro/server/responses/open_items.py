"""Items of an answer while they are written: each turns what is new into events, and is an item when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ostro.web.chat import ChatLogprob
from ostro.web.response_events import (
    CallArgumentsDelta,
    CallArgumentsDone,
    ContentPartAdded,
    ContentPartDone,
    Event,
    OutputItemAdded,
    OutputItemDone,
    OutputTextDelta,
    OutputTextDone,
    ReasoningTextDelta,
    ReasoningTextDone,
)
from ostro.web.response_items import (
    FunctionCallItem,
    ItemStatus,
    MessageItem,
    OutputItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
)

# Makes an event of a type with the stream's next number.
Numbered = Callable[..., Event]


class OpenItem:
    """index: its place in the output. `opened` comes first, `closed` last; a stream has the events of both."""

    kind: str

    def __init__(self, id: str, index: int, numbered: Numbered) -> None:
        self.id = id
        self.index = index
        self._numbered = numbered
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def item(self, status: ItemStatus) -> OutputItem:
        raise NotImplementedError

    def opened(self) -> Iterator[Event]:
        yield self._numbered(OutputItemAdded, output_index=self.index, item=self._empty())

    def closed(self, status: ItemStatus) -> Iterator[Event]:
        yield self._numbered(OutputItemDone, output_index=self.index, item=self.item(status))

    def _empty(self) -> OutputItem:
        raise NotImplementedError

    def _within(self, kind: type[Event], **fields: Any) -> Event:
        return self._numbered(kind, item_id=self.id, output_index=self.index, **fields)


class OpenMessage(OpenItem):
    """Text, with the log-probabilities of its tokens where they are wanted."""

    kind = "message"

    def __init__(self, id: str, index: int, numbered: Numbered) -> None:
        super().__init__(id, index, numbered)
        self._logprobs: list[ChatLogprob] = []

    def item(self, status: ItemStatus) -> OutputItem:
        return MessageItem(id=self.id, status=status, content=[self._part()])

    def opened(self) -> Iterator[Event]:
        yield from super().opened()
        yield self._within(ContentPartAdded, part=OutputText(text=""))

    def more(self, text: str, logprobs: list[ChatLogprob]) -> Event:
        self._pieces.append(text)
        self._logprobs += logprobs
        return self._within(OutputTextDelta, delta=text, logprobs=logprobs)

    def closed(self, status: ItemStatus) -> Iterator[Event]:
        yield self._within(OutputTextDone, text=self.text, logprobs=self._logprobs)
        yield self._within(ContentPartDone, part=self._part())
        yield from super().closed(status)

    def _part(self) -> OutputText:
        return OutputText(text=self.text, logprobs=self._logprobs)

    def _empty(self) -> OutputItem:
        return MessageItem(id=self.id, status="in_progress", content=[])


class OpenReasoning(OpenItem):
    kind = "reasoning"

    def item(self, status: ItemStatus) -> OutputItem:
        return ReasoningItem(id=self.id, status=status, content=[ReasoningText(self.text)])

    def opened(self) -> Iterator[Event]:
        yield from super().opened()
        yield self._within(ContentPartAdded, part=ReasoningText(""))

    def more(self, text: str) -> Event:
        self._pieces.append(text)
        return self._within(ReasoningTextDelta, delta=text)

    def closed(self, status: ItemStatus) -> Iterator[Event]:
        yield self._within(ReasoningTextDone, text=self.text)
        yield self._within(ContentPartDone, part=ReasoningText(self.text))
        yield from super().closed(status)

    def _empty(self) -> OutputItem:
        return ReasoningItem(id=self.id, status="in_progress")


class OpenCall(OpenItem):
    kind = "function_call"

    def __init__(self, id: str, index: int, numbered: Numbered, call_id: str, name: str) -> None:
        super().__init__(id, index, numbered)
        self._call_id = call_id
        self._name = name

    def item(self, status: ItemStatus) -> OutputItem:
        return FunctionCallItem(id=self.id, status=status, call_id=self._call_id, name=self._name, arguments=self.text)

    def more(self, arguments: str) -> Event:
        self._pieces.append(arguments)
        return self._within(CallArgumentsDelta, delta=arguments)

    def closed(self, status: ItemStatus) -> Iterator[Event]:
        yield self._within(CallArgumentsDone, name=self._name, arguments=self.text)
        yield from super().closed(status)

    def _empty(self) -> OutputItem:
        return self.item("in_progress")
