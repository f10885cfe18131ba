"""The answer of `/v1/messages`, whole and as events. msgspec, because one is written per token."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from ostro.core.request import Usage
from ostro.web.message_errors import MessageError

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class TokenDetails(msgspec.Struct, frozen=True):
    thinking_tokens: int


class MessageUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The prompt has input_tokens and, beside them, those that the cache had. Nothing is charged for filling it."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: TokenDetails

    @classmethod
    def of(cls, usage: Usage) -> MessageUsage:
        return cls(
            input_tokens=usage.prompt_tokens - usage.cached_tokens,
            cache_read_input_tokens=usage.cached_tokens,
            output_tokens=usage.completion_tokens,
            output_tokens_details=TokenDetails(usage.reasoning_tokens),
        )


class TextBlock(msgspec.Struct, frozen=True, tag="text"):
    text: str


class ThinkingBlock(msgspec.Struct, frozen=True, tag="thinking"):
    """signature: empty; thoughts are taken back without one."""

    thinking: str
    signature: str = ""


class ToolUseBlock(msgspec.Struct, frozen=True, tag="tool_use"):
    """input: a JSON object, which may be given as it is written."""

    id: str
    name: str
    input: Annotated[Any, msgspec.Meta(extra_json_schema={"type": "object"})]


Block = TextBlock | ThinkingBlock | ToolUseBlock


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """stop_reason: null only where a stream begins. stop_sequence: the one that ended the text, if one did."""

    id: str
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[Block]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class TextDelta(msgspec.Struct, frozen=True, tag="text_delta"):
    text: str


class ThinkingDelta(msgspec.Struct, frozen=True, tag="thinking_delta"):
    thinking: str


class SignatureDelta(msgspec.Struct, frozen=True, tag="signature_delta"):
    signature: str


class InputJsonDelta(msgspec.Struct, frozen=True, tag="input_json_delta"):
    partial_json: str


BlockDelta = TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta


class MessageStart(msgspec.Struct, frozen=True, tag="message_start"):
    message: Message


class BlockStart(msgspec.Struct, frozen=True, tag="content_block_start"):
    index: int
    content_block: Block


class BlockDeltaEvent(msgspec.Struct, frozen=True, tag="content_block_delta"):
    index: int
    delta: BlockDelta


class BlockStop(msgspec.Struct, frozen=True, tag="content_block_stop"):
    index: int


class Ending(msgspec.Struct, frozen=True):
    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(msgspec.Struct, frozen=True, tag="message_delta"):
    """How the answer ended. usage: of the whole answer, not what is new."""

    delta: Ending
    usage: MessageUsage


class MessageStop(msgspec.Struct, frozen=True, tag="message_stop"):
    pass


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Keeps a silent stream open."""


AnyMessageEvent = (
    MessageStart | BlockStart | BlockDeltaEvent | BlockStop | MessageDelta | MessageStop | Ping | MessageError
)


def event_name(event: AnyMessageEvent) -> str:
    return str(event.__struct_config__.tag)


class TokenCount(msgspec.Struct, frozen=True):
    input_tokens: int
