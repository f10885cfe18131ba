"""The request of `/v1/responses`, and the queries of what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from ostro.core.constraints import ResponseFormat, ToolPolicy
from ostro.core.errors import InvalidRequestError
from ostro.core.sampling import MAX_LOGPROBS, SamplingParams
from ostro.web.bounded import Many, at_most
from ostro.web.detail import asks_for_detail
from ostro.web.response_input import Choice, Input, ReasoningConfig, ResponseTool, TextConfig, read_policy
from ostro.web.tools import MAX_TOOLS
from ostro.web.wire import MAX_PRIORITY, MAX_TIMEOUT_S, WireRequest, top_k_of

LOGPROBS = "message.output_text.logprobs"

Includable = Literal[
    "message.output_text.logprobs",
    # These are about things that this server's answers never hold.
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]


class ResponsesStreamOptions(BaseModel):
    """include_obfuscation: padding against listeners who measure lengths; there is none here."""

    model_config = ConfigDict(extra="ignore", strict=True)

    include_obfuscation: bool | None = None


class ResponsesRequest(WireRequest):
    """`POST /v1/responses`: OpenAI's fields, and of the usual extensions top_k, min_p, the penalties, seed, priority
    and timeout.

    Ranges of sampling fields are checked where they are used, so that every endpoint has the same ones.
    store: keep the answer and its input, to be fetched and gone on from. previous_response_id: an answer to go on
    from; its instructions are not taken over.
    """

    input: Input
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: ResponsesStreamOptions | None = None
    metadata: Annotated[dict[str, Annotated[str, Field(max_length=512)]], at_most(16)] | None = Field(
        default=None, max_length=16
    )
    tools: Many[ResponseTool] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    max_output_tokens: int | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    include: Many[Includable] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    background: bool | None = None
    service_tier: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    priority: int | None = Field(default=None, ge=-MAX_PRIORITY, le=MAX_PRIORITY)
    timeout: float | None = Field(default=None, gt=0, le=MAX_TIMEOUT_S)

    REFUSED: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "conversation": (),
        "prompt": (),
        "context_management": ([],),
        "moderation": (),
        # The chat endpoint's, which mean something and would be lost here.
        "messages": (),
        "response_format": (),
        "max_tokens": (),
        "max_completion_tokens": (),
        "n": (1,),
        "stop": ([], ""),
        "logit_bias": ({},),
    }

    def refuse_unsupported(self) -> None:
        super().refuse_unsupported()
        if self.background:
            raise InvalidRequestError(
                "background is not supported: answers are made while the request waits. Leave it out, or use a batch.",
                param="background",
                code="unsupported_parameter",
            )
        if self.truncation == "auto":
            raise InvalidRequestError(
                "truncation 'auto' is not supported: a prompt that is too long is refused, never shortened silently. "
                "Use 'disabled'.",
                param="truncation",
                code="unsupported_parameter",
            )
        for key in self.metadata or {}:
            if len(key) > 64:
                raise InvalidRequestError("A key of metadata has over 64 characters.", param="metadata")

    @property
    def wants_logprobs(self) -> bool:
        return LOGPROBS in (self.include or ())

    @property
    def effort(self) -> str | None:
        return None if self.reasoning is None else self.reasoning.effort

    def chat_tools(self) -> list[dict[str, Any]]:
        """Raises InvalidRequestError for a tool that is no function."""
        return [tool.as_chat(index) for index, tool in enumerate(self.tools or ())]

    def policy(self) -> ToolPolicy:
        """Raises InvalidRequestError (param "tool_choice…")."""
        return read_policy(self.tool_choice, self.tools or [], self.parallel_tool_calls)

    def response(self) -> ResponseFormat:
        """Raises InvalidRequestError (param "text.format…")."""
        return ResponseFormat() if self.text is None or self.text.format is None else self.text.format.read()

    def params(self) -> SamplingParams:
        """Raises InvalidRequestError naming the field as `SamplingParams` does."""
        names = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty")
        given = {name: getattr(self, name) for name in (*names, "repetition_penalty")}
        given["top_k"] = top_k_of(self.top_k)
        return SamplingParams(
            **{name: value for name, value in given.items() if value is not None},
            seed=self.seed,
            max_tokens=self.max_output_tokens,
            logprobs=(self.top_logprobs or 0) if self.wants_logprobs else None,
        )

    def ignored(self) -> list[str]:
        """Known fields that are said again in the answer and change nothing else."""
        named = {
            "text.verbosity": self.text is not None and self.text.verbosity is not None,
            "reasoning.summary": self.reasoning is not None and self.reasoning.summary is not None,
            "input_image.detail": not isinstance(self.input, str)
            and any(asks_for_detail(item.content) for item in self.input or ()),
        }
        return [name for name, given in named.items() if given]


class InputItemsPage(BaseModel):
    """The query of `GET /v1/responses/{id}/input_items`. after: the last item of the page before."""

    model_config = ConfigDict(extra="ignore")

    after: str | None = None
    limit: int = Field(default=20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"
