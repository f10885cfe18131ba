"""Wire types of what `/v1/responses` takes: items, tools, formats. Requests are pydantic, to explain what is wrong."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ostro.core.constraints import ResponseFormat, ToolPolicy
from ostro.core.errors import InvalidRequestError
from ostro.web.bounded import Many
from ostro.web.text_or import OTHER, TEXT, TextOr
from ostro.web.tools import AllowedTools, FunctionName, ToolChoice, tool_policy

MAX_ITEMS = 4096

_STRICT = ConfigDict(extra="allow", strict=True, protected_namespaces=())


class InputPart(BaseModel):
    """A piece of content: `input_text` or `output_text`, `input_image`, `input_audio`, an assistant's `refusal`, or a
    thought's `reasoning_text`. Other kinds are refused."""

    model_config = _STRICT

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None
    input_audio: dict[str, Any] | None = None


Parts = Annotated[Many[InputPart], Field(max_length=MAX_ITEMS)]
Content = Annotated[Annotated[str, TEXT] | Annotated[Parts, OTHER], TextOr]


class InputItem(BaseModel):
    """One item of a conversation; which fields it has depends on its type.

    message (also without a type): role and content. function_call: call_id, name and arguments.
    function_call_output: call_id and output. reasoning: content. item_reference: id.
    """

    model_config = _STRICT

    type: str | None = None
    id: str | None = None
    status: str | None = None
    role: str | None = None
    content: Content | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Content | None = None


Items = Annotated[Many[InputItem], Field(max_length=MAX_ITEMS)]
Input = Annotated[Annotated[str, TEXT] | Annotated[Items, OTHER], TextOr]


class ResponseTool(BaseModel):
    """A function; the tools that run on OpenAI's side are refused. strict: true unless it says otherwise."""

    model_config = _STRICT

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = True

    def as_chat(self, index: int) -> dict[str, Any]:
        """As the chat endpoint has it. Raises InvalidRequestError."""
        where = f"tools[{index}]"
        if self.type != "function":
            raise InvalidRequestError(
                f"{where} is of type {self.type[:40]!r}; this server can offer tools of type 'function' only.",
                param=f"{where}.type",
                code="unsupported_tool",
            )
        if self.name is None:
            raise missing(f"{where}.name")
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
            "strict": bool(self.strict),
        }
        return {"type": "function", "function": function}


class ToolChoiceObject(BaseModel):
    """A function by its name, or the tools that are allowed and whether one must be called."""

    model_config = _STRICT

    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: Many[dict[str, Any]] | None = None

    def as_chat(self) -> ToolChoice:
        """As the chat endpoint has it. Raises InvalidRequestError."""
        match self.type:
            case "function":
                if self.name is None:
                    raise missing("tool_choice.name")
                return ToolChoice(type="function", function=FunctionName(name=self.name))
            case "allowed_tools":
                if self.mode is None:
                    raise missing("tool_choice.mode")
                allowed = AllowedTools(mode=self.mode, tools=self.tools or [])
                return ToolChoice(type="allowed_tools", allowed_tools=allowed)
        raise InvalidRequestError(
            f"tool_choice is of type {self.type[:40]!r}; it can be 'function' or 'allowed_tools'.",
            param="tool_choice.type",
            code="unsupported_tool",
        )


Choice = Annotated[Annotated[str, TEXT] | Annotated[ToolChoiceObject, OTHER], TextOr]


def read_policy(choice: str | ToolChoiceObject | None, tools: list[ResponseTool], parallel: bool | None) -> ToolPolicy:
    """What tool_choice and parallel_tool_calls ask for. Raises InvalidRequestError."""
    asked = choice.as_chat() if isinstance(choice, ToolChoiceObject) else choice
    return tool_policy(asked, [{"name": tool.name} for tool in tools], parallel)


class TextFormat(BaseModel):
    """What the text of the answer must be."""

    model_config = _STRICT

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None

    def read(self) -> ResponseFormat:
        """Raises InvalidRequestError for a schema that is not there or has no name."""
        if self.type != "json_schema":
            return ResponseFormat(self.type)
        if self.name is None:
            raise missing("text.format.name")
        if self.schema_ is None:
            raise missing("text.format.schema")
        return ResponseFormat("json_schema", self.schema_)


class TextConfig(BaseModel):
    """verbosity: said again in the answer; models here have no place for it."""

    model_config = _STRICT

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningConfig(BaseModel):
    """effort: how hard to think. summary: said again in the answer, but thoughts come whole and not summarised."""

    model_config = _STRICT

    effort: str | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


def missing(field: str) -> InvalidRequestError:
    return InvalidRequestError(f"'{field}' is missing.", param=field, code="missing_required_parameter")
