"""The answer of `/v1/responses`, whole, and what else its routes answer."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ostro.core.request import Usage
from ostro.core.sampling import SamplingParams
from ostro.web.response_input import ResponseTool, TextFormat, ToolChoiceObject
from ostro.web.response_items import OutputItem
from ostro.web.responses import ResponsesRequest

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class InputTokensDetails(msgspec.Struct, frozen=True):
    """cache_write_tokens: OpenAI's figure for what it bills; nothing is billed here."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> ResponseUsage:
        return cls(
            usage.prompt_tokens,
            InputTokensDetails(usage.cached_tokens),
            usage.completion_tokens,
            OutputTokensDetails(usage.reasoning_tokens),
            usage.total_tokens,
        )


class ResponseError(msgspec.Struct, frozen=True):
    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class IncompleteDetails(msgspec.Struct, frozen=True):
    reason: Literal["max_output_tokens"]


class Reasoning(msgspec.Struct, frozen=True):
    effort: str | None = None
    summary: str | None = None


class Text(msgspec.Struct, frozen=True):
    format: dict[str, Any]
    verbosity: str


class FunctionTool(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function"):
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool


class ResponseObject(msgspec.Struct, frozen=True, kw_only=True):
    """All fields that OpenAI's answer has; those of the request are said again, with the values that were used."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status
    background: Literal[False] = False
    completed_at: int | None = None
    error: ResponseError | None = None
    frequency_penalty: float
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    presence_penalty: float
    previous_response_id: str | None
    prompt_cache_key: str | None
    prompt_cache_retention: str | None
    reasoning: Reasoning
    safety_identifier: str | None
    service_tier: Literal["default"] = "default"
    store: bool
    temperature: float
    text: Text
    tool_choice: str | dict[str, Any]
    tools: list[FunctionTool]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    user: str | None


class DeletedResponse(msgspec.Struct, frozen=True):
    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


def begun(
    body: ResponsesRequest, params: SamplingParams, *, id: str, created_at: int, model: str, store: bool
) -> ResponseObject:
    """The answer to a request before it has any output."""
    reasoning = Reasoning() if body.reasoning is None else Reasoning(body.reasoning.effort, body.reasoning.summary)
    text = body.text
    return ResponseObject(
        id=id,
        created_at=created_at,
        status="in_progress",
        frequency_penalty=params.frequency_penalty,
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        metadata=body.metadata or {},
        model=model,
        output=[],
        parallel_tool_calls=body.parallel_tool_calls is not False,
        presence_penalty=params.presence_penalty,
        previous_response_id=body.previous_response_id,
        prompt_cache_key=body.prompt_cache_key,
        prompt_cache_retention=body.prompt_cache_retention,
        reasoning=reasoning,
        safety_identifier=body.safety_identifier,
        store=store,
        temperature=params.temperature,
        text=Text(_format(None if text is None else text.format), (text and text.verbosity) or "medium"),
        tool_choice=_choice(body.tool_choice),
        tools=[_tool(tool) for tool in body.tools or ()],
        top_logprobs=body.top_logprobs or 0,
        top_p=params.top_p,
        user=body.user,
    )


def _format(asked: TextFormat | None) -> dict[str, Any]:
    if asked is None or asked.type != "json_schema":
        return {"type": "text" if asked is None else asked.type}
    described = {"description": asked.description, "strict": bool(asked.strict)}
    return {"type": "json_schema", "name": asked.name, "schema": asked.schema_, **described}


def _choice(asked: str | ToolChoiceObject | None) -> str | dict[str, Any]:
    if isinstance(asked, ToolChoiceObject):
        return asked.model_dump(exclude_none=True)
    return "required" if asked == "any" else asked or "auto"


def _tool(tool: ResponseTool) -> FunctionTool:
    assert tool.name is not None, "tools were checked before anything is answered"
    return FunctionTool(
        name=tool.name, description=tool.description, parameters=tool.parameters, strict=bool(tool.strict)
    )
