"""Wire types of `/tokenize` and `/detokenize`, in vLLM's shape."""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import Field

from ostro.core.errors import InvalidRequestError
from ostro.web.bounded import Ids, Many
from ostro.web.chat import MAX_MESSAGES, ChatMessage
from ostro.web.tools import MAX_TOOLS
from ostro.web.wire import WireRequest


class TokenizeRequest(WireRequest):
    """A prompt, or a conversation as `/v1/chat/completions` takes it.

    add_special_tokens: begin a prompt with the token that begins a sequence; a conversation's template decides itself.
    return_token_strs: give the text of each token too.
    """

    prompt: str | None = None
    messages: Many[ChatMessage] | None = Field(default=None, min_length=1, max_length=MAX_MESSAGES)
    tools: Many[dict[str, Any]] | None = Field(default=None, max_length=MAX_TOOLS)
    reasoning_effort: str | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None  # Mistral's templates have nothing there, so both values mean the same
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None

    def check(self) -> None:
        """Raises InvalidRequestError unless exactly one of prompt and messages is there, and tools with messages."""
        if (self.prompt is None) == (self.messages is None):
            found = "Neither prompt nor messages was" if self.prompt is None else "Both prompt and messages were"
            raise InvalidRequestError(f"{found} given; one of them is needed.", param="prompt")
        if self.tools and self.messages is None:
            raise InvalidRequestError("tools go with messages, not with a prompt.", param="tools")


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """max_model_len: tokens that the model's context holds; null while the model is not loaded."""

    tokens: list[int]
    count: int
    max_model_len: int | None
    token_strs: list[str] | None = None


class DetokenizeRequest(WireRequest):
    """skip_special_tokens: leave control tokens out of the text; false gives their names."""

    tokens: Ids
    skip_special_tokens: bool | None = None


class Detokenized(msgspec.Struct, frozen=True):
    prompt: str
