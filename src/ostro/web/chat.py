"""Wire types of `/v1/chat/completions`. Requests are pydantic, to explain what is wrong with them; answers are
msgspec, because one is written per token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import BaseModel, ConfigDict, Field

from ostro.core.constraints import ToolPolicy
from ostro.core.errors import InvalidRequestError
from ostro.core.media import KINDS
from ostro.core.request import LabelScore
from ostro.core.sampling import SamplingParams
from ostro.web.bounded import Many
from ostro.web.detail import asks_for_detail
from ostro.web.tools import MAX_TOOLS, ToolChoice, tool_policy
from ostro.web.wire import GenerationRequest, UsageInfo

MAX_MESSAGES = 4096


class ContentPart(BaseModel):
    """A piece of a message's content: text, what an assistant thought (Mistral's `thinking`), an image, a sound or a
    series of numbers.

    image_url: a data URL, or an address where the server may fetch it; also as `{"url": …}`. input_audio: base64, as
    `{"data": …, "format": …}` or, as Mistral has it, plain. input_series: numbers, or `{"values": [numbers]}`.
    Models without the sense refuse them.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    type: str
    text: str | None = None
    image_url: str | dict[str, Any] | None = None
    input_audio: str | dict[str, Any] | None = None
    input_series: list[Any] | dict[str, Any] | None = None


class ChatMessage(BaseModel):
    """A message as OpenAI and Mistral have it. What a role may hold is the tokenizer's business to check."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: str
    content: str | Many[ContentPart] | None = None
    tool_calls: Many[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    prefix: bool | None = None

    def plain(self, index: int) -> dict[str, Any]:
        """The message as a tokenizer's template takes it, its media unread. Raises InvalidRequestError for parts of
        unknown types."""
        if isinstance(self.content, list):
            for number, part in enumerate(self.content):
                _check_part(part, f"messages[{index}].content[{number}]")
        return self.model_dump(exclude_none=True)


def _check_part(part: ContentPart, where: str) -> None:
    if part.type == "thinking" or part.type in KINDS:
        return
    if part.type not in ("text", "refusal"):
        raise InvalidRequestError(
            f"{where} is of type '{part.type[:40]}'; known are text, image_url, input_audio, input_series and "
            "thinking.",
            param=f"{where}.type",
            code="unsupported_content",
        )
    if part.type == "text" and part.text is None:
        raise InvalidRequestError(f"{where} is of type 'text' but has no text.", param=f"{where}.text")


class ChatTemplateKwargs(BaseModel):
    """The settings of other servers' templates that have a meaning here; the others are ignored."""

    model_config = ConfigDict(extra="allow", strict=True)

    reasoning_effort: str | None = None
    enable_thinking: bool | None = None


class ChatRequest(GenerationRequest):
    """`/v1/chat/completions`.

    prompt_mode: Mistral's; with "reasoning" the answer's content is a list of `thinking` and `text` chunks as their
        API has it, instead of `reasoning_content` beside it.
    continue_final_message: the last message is the assistant's and is gone on with; unlike Mistral's `prefix` in
        that message, its text does not stand before the answer's.
    """

    messages: Many[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: Many[dict[str, Any]] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: str | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: ChatTemplateKwargs | None = None
    prompt_mode: Literal["reasoning"] | None = None
    safe_prompt: bool | None = None
    continue_final_message: bool | None = None

    REFUSED: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "functions": ([],),
        "function_call": ("none", "auto"),
        "modalities": (["text"], []),
        "audio": (),
        "web_search_options": (),
        "guardrails": ([],),
    }

    def ignored(self) -> list[str]:
        """Known fields that change nothing."""
        return ["image_url.detail"] if any(asks_for_detail(one.content) for one in self.messages) else []

    def plain_messages(self) -> list[dict[str, Any]]:
        return [message.plain(index) for index, message in enumerate(self.messages)]

    def effort(self) -> str | None:
        """How hard to think, in OpenAI's words; None where nothing was asked for."""
        settings = self.chat_template_kwargs
        if self.reasoning_effort is not None or settings is None:
            return self.reasoning_effort
        if settings.reasoning_effort is None and settings.enable_thinking is False:
            return "none"
        return settings.reasoning_effort

    def policy(self) -> ToolPolicy:
        """Raises InvalidRequestError (param "tool_choice")."""
        return tool_policy(self.tool_choice, self.tools, self.parallel_tool_calls)

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


class FunctionCall(msgspec.Struct, frozen=True):
    """In a stream the name comes whole with the first piece and is empty after it: clients join the pieces, and
    Mistral's wants a name in each."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True):
    id: str
    function: FunctionCall
    index: int
    type: Literal["function"] = "function"


class ToolCallDelta(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    function: FunctionCall
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class TextChunk(msgspec.Struct, frozen=True, tag="text"):
    text: str


class ThinkChunk(msgspec.Struct, frozen=True, tag="thinking"):
    """Mistral's: what was thought, as text chunks."""

    thinking: list[TextChunk]


Content = str | list[TextChunk | ThinkChunk]


class AnswerMessage(msgspec.Struct, frozen=True, kw_only=True):
    """content is null where there are only calls."""

    role: Literal["assistant"] = "assistant"
    content: Content | None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: str
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """labels: of the conversation, from models with a head for them."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageInfo
    labels: list[LabelScore] | UnsetType = UNSET


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: Content | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    token_ids: list[int] | UnsetType = UNSET


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream. `usage` is null before the last one where it was asked for, else absent. labels: once,
    with the first piece of the answer."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: UsageInfo | UnsetType | None = UNSET
    labels: list[LabelScore] | UnsetType = UNSET
