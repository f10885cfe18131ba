"""The events of a streamed `/v1/responses`: each says its type in its data too, and its number in the stream."""

from __future__ import annotations

import msgspec

from ostro.core.errors import OstroError
from ostro.web.chat import ChatLogprob
from ostro.web.openapi import ErrorFields
from ostro.web.response_items import OutputItem, OutputText, ReasoningText
from ostro.web.response_object import ResponseObject


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Events count from 0."""

    sequence_number: int

    @property
    def kind(self) -> str:
        return str(self.__struct_config__.tag)


class _ResponseEvent(Event, frozen=True, kw_only=True):
    response: ResponseObject


class ResponseCreated(_ResponseEvent, frozen=True, kw_only=True, tag="response.created"):
    pass


class ResponseInProgress(_ResponseEvent, frozen=True, kw_only=True, tag="response.in_progress"):
    pass


class ResponseCompleted(_ResponseEvent, frozen=True, kw_only=True, tag="response.completed"):
    pass


class ResponseIncomplete(_ResponseEvent, frozen=True, kw_only=True, tag="response.incomplete"):
    pass


class ResponseFailed(_ResponseEvent, frozen=True, kw_only=True, tag="response.failed"):
    pass


class _ItemEvent(Event, frozen=True, kw_only=True):
    output_index: int
    item: OutputItem


class OutputItemAdded(_ItemEvent, frozen=True, kw_only=True, tag="response.output_item.added"):
    pass


class OutputItemDone(_ItemEvent, frozen=True, kw_only=True, tag="response.output_item.done"):
    pass


class _WithinItem(Event, frozen=True, kw_only=True):
    item_id: str
    output_index: int


class _WithinContent(_WithinItem, frozen=True, kw_only=True):
    content_index: int = 0


class ContentPartAdded(_WithinContent, frozen=True, kw_only=True, tag="response.content_part.added"):
    part: OutputText | ReasoningText


class ContentPartDone(_WithinContent, frozen=True, kw_only=True, tag="response.content_part.done"):
    part: OutputText | ReasoningText


class OutputTextDelta(_WithinContent, frozen=True, kw_only=True, tag="response.output_text.delta"):
    """logprobs: of the tokens that are new; empty unless they were asked for."""

    delta: str
    logprobs: list[ChatLogprob] = []


class OutputTextDone(_WithinContent, frozen=True, kw_only=True, tag="response.output_text.done"):
    text: str
    logprobs: list[ChatLogprob] = []


class ReasoningTextDelta(_WithinContent, frozen=True, kw_only=True, tag="response.reasoning_text.delta"):
    delta: str


class ReasoningTextDone(_WithinContent, frozen=True, kw_only=True, tag="response.reasoning_text.done"):
    text: str


class CallArgumentsDelta(_WithinItem, frozen=True, kw_only=True, tag="response.function_call_arguments.delta"):
    delta: str


class CallArgumentsDone(_WithinItem, frozen=True, kw_only=True, tag="response.function_call_arguments.done"):
    name: str
    arguments: str


class StreamError(Event, frozen=True, kw_only=True, tag="error"):
    """What ended a stream; `response.failed` follows. `error` says the same once more, since OpenAI's package raises
    what it finds there."""

    code: str | None
    message: str
    param: str | None
    error: ErrorFields

    @classmethod
    def of(cls, error: OstroError) -> StreamError:
        """As the only event that whoever ends the stream has to write."""
        fields = ErrorFields(error.message, error.type, error.param, error.code)
        return cls(sequence_number=0, code=error.code, message=error.message, param=error.param, error=fields)


AnyEvent = (
    ResponseCreated
    | ResponseInProgress
    | ResponseCompleted
    | ResponseIncomplete
    | ResponseFailed
    | OutputItemAdded
    | OutputItemDone
    | ContentPartAdded
    | ContentPartDone
    | OutputTextDelta
    | OutputTextDone
    | ReasoningTextDelta
    | ReasoningTextDone
    | CallArgumentsDelta
    | CallArgumentsDone
    | StreamError
)
