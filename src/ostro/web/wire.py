"""What both kinds of completion request share: sampling fields, what is refused, what is ignored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from ostro.core.constraints import ResponseFormat
from ostro.core.errors import InvalidRequestError
from ostro.core.request import Usage
from ostro.core.sampling import SamplingParams
from ostro.web.bounded import Ids, Many, Numbers
from ostro.web.response_format import StructuredOutputs, WireResponseFormat, one_of

MAX_PRIORITY = 100
MAX_TIMEOUT_S = 86_400.0

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAX_NAMED = 20


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class WireRequest(BaseModel):
    """What the bodies of all endpoints have: unknown fields are ignored and named in the `x-ostro-ignored` header of
    the answer."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())

    model: str | None = None

    # Fields that change what an answer means and cannot be honoured yet, with the values that ask for nothing.
    REFUSED: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    def ignored_header(self, *more: str) -> dict[str, str]:
        """`x-ostro-ignored` with the unknown fields that were sent, and `more`; empty where there are none."""
        names = [name for name, value in (self.model_extra or {}).items() if value is not None]
        names = [name if _NAME.fullmatch(name) else "?" for name in names if name not in self.REFUSED]
        named = sorted({*names, *more})[:_MAX_NAMED]
        return {"x-ostro-ignored": ", ".join(named)} if named else {}

    def refuse_unsupported(self) -> None:
        """Raises InvalidRequestError for a field whose silent loss would change the answer's meaning."""
        for name, harmless in self.REFUSED.items():
            value = (self.model_extra or {}).get(name)
            if value is not None and value not in harmless:
                raise InvalidRequestError(
                    f"'{name}' is not supported by this server. Leave it out.",
                    param=name,
                    code="unsupported_parameter",
                )


class GenerationRequest(WireRequest):
    """The fields that chat and plain completions have in common: OpenAI's, and the usual extensions.

    Ranges are checked where the parameters are used (`SamplingParams`), so that every face has the same ones.
    priority: lower is served earlier. timeout: seconds after which the request ends with an error.
    random_seed: Mistral's name for seed. return_token_ids: adds `token_ids` to each choice.
    """

    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: Numbers | None = None
    seed: int | None = None
    random_seed: int | None = None
    n: int | None = None
    stop: str | Many[str] | None = None
    stop_token_ids: Ids | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: int | None = Field(default=None, ge=-MAX_PRIORITY, le=MAX_PRIORITY)
    timeout: float | None = Field(default=None, gt=0, le=MAX_TIMEOUT_S)
    return_token_ids: bool | None = None
    response_format: WireResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: Many[str] | None = None
    guided_grammar: str | None = None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def usage_in_chunks(self) -> bool:
        """Whether each chunk of a stream tells the usage so far, as vLLM has it."""
        return self.include_usage and bool(self.stream_options and self.stream_options.continuous_usage_stats)

    def response(self) -> ResponseFormat:
        """What the text must be, however it was asked for. Raises InvalidRequestError for more than one way."""
        asked: dict[str, ResponseFormat] = {}
        if self.response_format is not None and self.response_format.type != "text":
            asked["response_format"] = self.response_format.read()
        if self.structured_outputs is not None:
            asked["structured_outputs"] = self.structured_outputs.read("structured_outputs")
        if self.guided_choice is not None:
            asked["guided_choice"] = one_of(self.guided_choice, "guided_choice")
        for name in ("json", "regex", "grammar"):
            value = getattr(self, f"guided_{name}")
            if value is not None:
                asked[f"guided_{name}"] = StructuredOutputs(**{name: value}).read(f"guided_{name}")
        if len(asked) > 1:
            names = " and ".join(asked)
            raise InvalidRequestError(f"{names} were given; an answer has one format.", param=list(asked)[1])
        return next(iter(asked.values()), ResponseFormat())

    @property
    def response_param(self) -> str:
        """The field that `response` came from."""
        names = ("response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice")
        return next((name for name in names if getattr(self, name) is not None), "guided_grammar")

    def sampling(self, *, max_tokens: int | None, logprobs: int | None) -> SamplingParams:
        """The parameters as the engine takes them. Raises InvalidRequestError naming the field."""
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": top_k_of(self.top_k),
            "min_p": self.min_p,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "repetition_penalty": self.repetition_penalty,
            "n": self.n,
        }
        return SamplingParams(
            **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]  # fields are checked where they are used
            max_tokens=max_tokens,
            min_tokens=self.min_tokens or 0,
            logit_bias=_biases(self.logit_bias or {}),
            seed=self.seed if self.seed is not None else self.random_seed,
            logprobs=logprobs,
            stop=[self.stop] if isinstance(self.stop, str) else self.stop or (),
            stop_token_ids=self.stop_token_ids or (),
            ignore_eos=bool(self.ignore_eos),
        )


def top_k_of(given: int | None) -> int | None:
    """-1 is other servers' way to say "all"."""
    return 0 if given == -1 else given


def _biases(given: Mapping[str, float]) -> dict[int, float]:
    """JSON object keys are strings; ours are token ids."""
    biases = {}
    for key, value in given.items():
        if not key.isascii() or not key.isdecimal() or len(key) > 10:
            raise InvalidRequestError(f"logit_bias keys are token ids, not {key[:40]!r}.", param="logit_bias")
        biases[int(key)] = value
    return biases


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class UsageInfo(msgspec.Struct, frozen=True):
    """`usage` of an answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails

    @classmethod
    def of(cls, usage: Usage) -> UsageInfo:
        return cls(
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.total_tokens,
            PromptTokensDetails(usage.cached_tokens),
            CompletionTokensDetails(usage.reasoning_tokens),
        )
