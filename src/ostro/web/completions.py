"""Wire types of `/v1/completions`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import Field

from ostro.core.errors import InvalidRequestError
from ostro.core.sampling import MAX_N, SamplingParams
from ostro.web.bounded import Ids, Many
from ostro.web.wire import GenerationRequest, UsageInfo

MAX_PROMPTS = 128
DEFAULT_MAX_TOKENS = 16  # OpenAI's

Prompt = str | list[int]


class CompletionRequest(GenerationRequest):
    prompt: str | Many[str] | Ids | Many[Ids]
    max_tokens: int | None = DEFAULT_MAX_TOKENS
    logprobs: int | None = Field(default=None)
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None

    REFUSED: ClassVar[Mapping[str, tuple[Any, ...]]] = {"prompt_logprobs": ()}

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

    @property
    def only_scores(self) -> bool:
        """Whether nothing is to be generated: the prompt is repeated, with its log-probabilities where asked for."""
        return bool(self.echo) and self.max_tokens == 0

    def params(self) -> SamplingParams:
        """As the engine takes them, for `best_of` answers a prompt. Raises InvalidRequestError naming the field."""
        n = self.n or 1
        if self.best_of is not None and self.best_of < n:
            raise InvalidRequestError(f"best_of={self.best_of} is less than n={n}.", param="best_of")
        best_of = self.best_of or n
        if best_of > MAX_N:
            raise InvalidRequestError(f"best_of must be at most {MAX_N}, not {best_of}.", param="best_of")
        if best_of > n and self.stream:
            raise InvalidRequestError(
                "Answers that are chosen from best_of others cannot be streamed: the best is known at the end.",
                param="best_of",
            )
        if self.suffix is not None and self.echo:
            raise InvalidRequestError("echo and suffix cannot go together.", param="suffix")
        params = self.sampling(max_tokens=1 if self.only_scores else self.max_tokens, logprobs=self.logprobs)
        # The best is the one with the highest log-probability per token, which has to be known then.
        logprobs = 0 if best_of > n and params.logprobs is None else params.logprobs
        scores = self.logprobs if self.echo else None
        return msgspec.structs.replace(params, n=best_of, logprobs=logprobs, prompt_logprobs=scores)


class FimRequest(GenerationRequest):
    """`/v1/fim/completions`, as Mistral has it: what comes between prompt and suffix."""

    prompt: str
    suffix: str | None = None

    def params(self) -> SamplingParams:
        """Raises InvalidRequestError naming the field."""
        return self.sampling(max_tokens=self.max_tokens, logprobs=None)


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """Parallel lists, one entry a token; `text_offset` counts characters from the start of `text`.

    A prompt's first token has nothing before it and therefore no log-probability.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
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
