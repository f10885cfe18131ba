"""Wire types of `/v1/completions`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import Field

from ostro.core.errors import InvalidRequestError
from ostro.core.sampling import SamplingParams
from ostro.web.wire import GenerationRequest, UsageInfo

MAX_PROMPTS = 128
DEFAULT_MAX_TOKENS = 16  # OpenAI's

Prompt = str | list[int]


class CompletionRequest(GenerationRequest):
    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = DEFAULT_MAX_TOKENS
    logprobs: int | None = Field(default=None)
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None

    REFUSED: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "guided_json": (),
        "guided_regex": (),
        "guided_choice": (),
        "guided_grammar": (),
        "structured_outputs": (),
        "response_format": ({"type": "text"},),
        "prompt_logprobs": (0,),
    }

    def prompts(self) -> list[Prompt]:
        """The prompts one by one: a text, a list of texts, token ids, or a list of token ids' lists."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt:
            raise InvalidRequestError("The prompt is empty; give a text or token ids.", param="prompt")
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        if len(self.prompt) > MAX_PROMPTS:
            raise InvalidRequestError(
                f"{len(self.prompt)} prompts were sent; one request takes at most {MAX_PROMPTS}.", param="prompt"
            )
        return list(self.prompt)

    def params(self) -> SamplingParams:
        """Raises InvalidRequestError naming the field."""
        if self.suffix:
            raise InvalidRequestError("suffix is not supported.", param="suffix", code="unsupported_parameter")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise InvalidRequestError(
                "best_of is not supported beyond n.", param="best_of", code="unsupported_parameter"
            )
        if self.echo and self.logprobs is not None:
            raise InvalidRequestError(
                "echo together with logprobs is not supported: the prompt's own log-probabilities are not computed.",
                param="echo",
                code="unsupported_parameter",
            )
        return self.sampling(max_tokens=self.max_tokens, logprobs=self.logprobs)


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """Parallel lists, one entry a token; `text_offset` counts characters from the start of `text`."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    token_ids: list[int] | UnsetType = UNSET


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, or one event of a stream: OpenAI gives both the same name."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageInfo | UnsetType | None = UNSET
