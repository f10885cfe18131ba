"""The requests of `/v1/messages` and `/v1/messages/count_tokens`, in Anthropic's shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from ostro.core.constraints import ResponseFormat, ToolPolicy
from ostro.core.errors import InvalidRequestError
from ostro.core.sampling import SamplingParams
from ostro.web.bounded import Many
from ostro.web.chat import MAX_MESSAGES
from ostro.web.message_input import InputMessage, Texts, chat_messages, missing, sent_names
from ostro.web.tools import MAX_TOOLS, FunctionName, ToolChoice, tool_policy
from ostro.web.wire import MAX_PRIORITY, MAX_TIMEOUT_S, WireRequest, top_k_of

_STRICT = ConfigDict(extra="allow", strict=True)


class MessageTool(BaseModel):
    """A tool of the client's own. Those that Anthropic runs or knows the input of, such as web_search, are refused."""

    model_config = _STRICT

    type: str | None = None
    name: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None

    def as_chat(self, index: int) -> dict[str, Any]:
        """As the chat endpoint has it. Raises InvalidRequestError."""
        where = f"tools[{index}]"
        if self.type not in (None, "custom"):
            raise InvalidRequestError(
                f"{where} is of type {str(self.type)[:40]!r}; this server can offer tools with an input_schema of "
                "their own only (type 'custom').",
                param=f"{where}.type",
                code="unsupported_tool",
            )
        for field in ("name", "input_schema"):
            if getattr(self, field) is None:
                raise missing(f"{where}.{field}")
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": self.input_schema,
            "strict": bool(self.strict),
        }
        return {"type": "function", "function": function}


class MessageToolChoice(BaseModel):
    """name: with type "tool"."""

    model_config = _STRICT

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    def as_chat(self) -> str | ToolChoice:
        """As the chat endpoint has it. Raises InvalidRequestError."""
        if self.type != "tool":
            return self.type
        if self.name is None:
            raise missing("tool_choice.name")
        return ToolChoice(type="function", function=FunctionName(name=self.name))


class ThinkingConfig(BaseModel):
    """budget_tokens: not enforced; max_tokens is. display: "omitted" leaves thinking blocks empty."""

    model_config = _STRICT

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: int | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(BaseModel):
    model_config = _STRICT

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class CountTokensRequest(WireRequest):
    """What of a request its prompt is made of. cache_control, here and in blocks: prefixes are cached anyway."""

    messages: Many[InputMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    system: Texts | None = None
    tools: Many[MessageTool] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: MessageToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    cache_control: dict[str, Any] | None = None

    REFUSED: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "mcp_servers": ([],),
        "container": (),
        "output_format": (),  # what output_config.format was called once
        # The chat endpoint's, which mean something and would be lost here.
        "stop": ([], ""),
        "response_format": (),
    }

    def chat_messages(self) -> list[dict[str, Any]]:
        """Raises InvalidRequestError naming the block."""
        return chat_messages(self.system, self.messages)

    def sent_names(self, text: str) -> str:
        """A text that names fields of `chat_messages`, by the names of what was sent."""
        return sent_names(text, self.system, self.messages)

    def chat_tools(self) -> list[dict[str, Any]]:
        """Raises InvalidRequestError for a tool that is not the client's own."""
        return [tool.as_chat(index) for index, tool in enumerate(self.tools or ())]

    @property
    def continues(self) -> bool:
        """Whether the answer goes on from the last message."""
        return self.messages[-1].role == "assistant"

    @property
    def effort(self) -> str | None:
        """How hard to think, in the chat endpoint's words; None where nothing was asked for."""
        asked = None if self.output_config is None else self.output_config.effort
        if self.thinking is None:
            return asked
        return "none" if self.thinking.type == "disabled" else asked or "high"

    @property
    def effort_param(self) -> str:
        """The field that `effort` came from."""
        return "output_config.effort" if self.thinking is None else "thinking"

    def policy(self) -> ToolPolicy:
        """Raises InvalidRequestError (param "tool_choice…")."""
        choice = self.tool_choice
        if choice is None:
            return ToolPolicy()
        return tool_policy(
            choice.as_chat(), [{"name": tool.name} for tool in self.tools or ()], not choice.disable_parallel_tool_use
        )

    def response(self) -> ResponseFormat:
        if self.output_config is None or self.output_config.format is None:
            return ResponseFormat()
        return ResponseFormat("json_schema", self.output_config.format.schema_)


class MessagesRequest(CountTokensRequest):
    """`POST /v1/messages`: Anthropic's fields, and of the usual extensions seed, priority and timeout.

    Ranges of sampling fields are checked where they are used, so that every endpoint has the same ones.
    metadata, service_tier: taken, and change nothing.
    """

    max_tokens: int
    stop_sequences: Many[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stream: bool | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    seed: int | None = None
    priority: int | None = Field(default=None, ge=-MAX_PRIORITY, le=MAX_PRIORITY)
    timeout: float | None = Field(default=None, gt=0, le=MAX_TIMEOUT_S)

    def params(self) -> SamplingParams:
        """Raises InvalidRequestError naming the field."""
        given: dict[str, Any] = {"temperature": self.temperature, "top_p": self.top_p, "top_k": top_k_of(self.top_k)}
        try:
            return SamplingParams(
                **{name: value for name, value in given.items() if value is not None},
                max_tokens=self.max_tokens,
                seed=self.seed,
                stop=self.stop_sequences or (),
            )
        except InvalidRequestError as error:
            if error.param == "stop":
                error.param = "stop_sequences"
            raise

    @property
    def shows_thoughts(self) -> bool:
        return self.thinking is None or self.thinking.display != "omitted"

    def ignored(self) -> list[str]:
        """Known fields that ask for what is not done."""
        budget = self.thinking is not None and self.thinking.budget_tokens is not None
        return ["thinking.budget_tokens"] if budget else []
