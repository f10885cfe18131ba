"""Wire types of `/v1/moderations` and `/v1/chat/moderations`: Mistral's, with OpenAI's categories beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, cast

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from ostro.core.errors import InvalidRequestError
from ostro.web.bounded import Many
from ostro.web.chat import MAX_MESSAGES, ChatMessage, ContentPart
from ostro.web.wire import WireRequest

MAX_INPUTS = 2048

_TEXTS = ("text", "input_text", "output_text")


class InputPart(BaseModel):
    """OpenAI's inputs of several kinds; texts only here."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: str
    text: str | None = None


class ModerationRequest(WireRequest):
    """input: a text, texts, or parts of type text, each judged by itself."""

    input: str | Many[str] | Many[InputPart]
    metadata: dict[str, Any] | None = None

    def texts(self) -> list[str]:
        """The inputs one by one. Raises InvalidRequestError naming the field."""
        if isinstance(self.input, str):
            return [self.input]
        _refuse_count(len(self.input), "input")
        return [_text(f"input[{index}]", one) for index, one in enumerate(self.input)]


class ChatModerationRequest(WireRequest):
    """input: a conversation, or several. `inputs` and `messages` are other names for it."""

    input: Many[ChatMessage] | Many[Many[ChatMessage]] | None = Field(default=None, max_length=MAX_MESSAGES)
    inputs: Many[ChatMessage] | Many[Many[ChatMessage]] | None = Field(default=None, max_length=MAX_MESSAGES)
    messages: Many[ChatMessage] | None = Field(default=None, max_length=MAX_MESSAGES)

    def texts(self) -> list[str]:
        """What the last message of each conversation says. Raises InvalidRequestError naming the field."""
        given = [name for name in ("input", "inputs", "messages") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "no conversation"
            raise InvalidRequestError(f"{found} was given; send one, as 'input'.", param=given[1] if given else "input")
        field = given[0]
        listed: Sequence[Any] = getattr(self, field)
        _refuse_count(len(listed), field)
        if isinstance(listed[0], ChatMessage):
            return [_said(f"{field}[{len(listed) - 1}]", listed[-1])]
        texts = []
        for index, conversation in enumerate(listed):
            if not conversation:
                raise InvalidRequestError(f"{field}[{index}] has no message.", param=f"{field}[{index}]")
            texts.append(_said(f"{field}[{index}][{len(conversation) - 1}]", conversation[-1]))
        return texts


class Moderation(msgspec.Struct, frozen=True, kw_only=True):
    """category_scores: in [0, 1]. categories: which of them are high enough to flag the text."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[Literal["text"]]]


class Moderations(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    model: str
    results: list[Moderation]


def _refuse_count(count: int, field: str) -> None:
    if not count:
        raise InvalidRequestError(f"{field} is empty; there is nothing to judge.", param=field)
    if count > MAX_INPUTS:
        raise InvalidRequestError(f"{field} has {count} entries; one request takes at most {MAX_INPUTS}.", param=field)


def _text(field: str, given: object) -> str:
    if isinstance(given, str):
        return given
    part = cast("InputPart", given)
    if part.type not in _TEXTS:
        raise InvalidRequestError(
            f"{field} is of type {part.type[:40]!r}, but texts alone can be judged.", param=f"{field}.type"
        )
    if part.text is None:
        raise InvalidRequestError(f"{field} must have its text as a string in 'text'.", param=f"{field}.text")
    return part.text


def _said(field: str, message: ChatMessage) -> str:
    """All that a message says: its text, its thoughts, the arguments of its calls."""
    if isinstance(message.content, list):
        texts = [_content(f"{field}.content[{index}]", part) for index, part in enumerate(message.content)]
    else:
        texts = [message.content or ""]
    for name in ("reasoning_content", "reasoning"):
        thought = (message.model_extra or {}).get(name)
        texts += [thought] if isinstance(thought, str) else []
    for call in message.tool_calls or ():
        function = call.get("function")
        arguments = function.get("arguments") if isinstance(function, dict) else None
        texts.append(arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False))
    return "\n".join(texts)


def _content(field: str, part: ContentPart) -> str:
    if part.type == "thinking":
        thinking = (part.model_extra or {}).get("thinking")
        chunks = thinking if isinstance(thinking, list) else [{"text": thinking}]
        return "".join(str(chunk.get("text") or "") for chunk in chunks if isinstance(chunk, dict))
    said = (part.model_extra or {}).get("refusal") if part.type == "refusal" else part.text
    if part.type not in ("text", "refusal") or not isinstance(said, str):
        raise InvalidRequestError(f"{field} is no text, and texts alone can be judged.", param=field)
    return said
