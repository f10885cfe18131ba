"""Wire types of `/v1/chat/completions`. Requests are pydantic, to explain what is wrong with them; answers are
msgspec, because one is written per token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import BaseModel, ConfigDict, Field

from ostro.core.errors import InvalidRequestError
from ostro.core.sampling import SamplingParams
from ostro.web.wire import GenerationRequest, UsageInfo

MAX_MESSAGES = 4096


class ContentPart(BaseModel):
    """A piece of a message's content. Other kinds than text are refused: this server's models read text only."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: str
    text: str | None = None


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    role: str
    content: str | list[ContentPart] | None = None

    def plain(self, index: int) -> dict[str, Any]:
        """The message as a tokenizer's template takes it. Raises InvalidRequestError for parts that are not text."""
        message = self.model_dump(exclude_none=True, exclude={"content"})
        if isinstance(self.content, list):
            texts = [self._text(part, f"messages[{index}].content[{i}]") for i, part in enumerate(self.content)]
            message["content"] = "".join(texts)
        elif self.content is not None:
            message["content"] = self.content
        return message

    @staticmethod
    def _text(part: ContentPart, where: str) -> str:
        if part.type != "text":
            raise InvalidRequestError(
                f"{where} is of type '{part.type}', but this model takes text only.",
                param=f"{where}.type",
                code="unsupported_content",
            )
        if part.text is None:
            raise InvalidRequestError(f"{where} is of type 'text' but has no text.", param=f"{where}.text")
        return part.text


class ChatRequest(GenerationRequest):
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    REFUSED: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "response_format": ({"type": "text"},),
        "modalities": (["text"], []),
        "audio": (),
        "prediction": (),
        "guided_json": (),
        "guided_regex": (),
        "guided_choice": (),
        "guided_grammar": (),
        "structured_outputs": (),
    }

    def plain_messages(self) -> list[dict[str, Any]]:
        return [message.plain(index) for index, message in enumerate(self.messages)]

    def params(self) -> SamplingParams:
        """Raises InvalidRequestError naming the field."""
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequestError("top_logprobs needs logprobs to be true.", param="top_logprobs")
        most = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        try:
            return self.sampling(max_tokens=most, logprobs=logprobs)
        except InvalidRequestError as error:
            if error.param == "max_tokens" and self.max_completion_tokens is not None:
                error.param = "max_completion_tokens"
            elif error.param == "logprobs":
                error.param = "top_logprobs"
            raise


class TopLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None


class ChatLogprob(msgspec.Struct, frozen=True):
    """One token of `logprobs.content`; `bytes` are the token's own, where `token` may not show them all."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    content: list[ChatLogprob]


class AnswerMessage(msgspec.Struct, frozen=True):
    content: str
    role: Literal["assistant"] = "assistant"


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: str
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageInfo


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    token_ids: list[int] | UnsetType = UNSET


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream. `usage` is null before the last one where it was asked for, else absent."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: UsageInfo | UnsetType | None = UNSET
