"""Wire types of tools and of how an answer may use them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ostro.core.constraints import ToolPolicy
from ostro.core.errors import InvalidRequestError
from ostro.web.bounded import Many

MAX_TOOLS = 256

_MODES: dict[str, Literal["auto", "none", "required"]] = {
    "auto": "auto",
    "none": "none",
    "required": "required",
    "any": "required",  # Mistral's word
}


class FunctionName(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    name: str


class AllowedTools(BaseModel):
    """`{"mode": "auto", "tools": [{"type": "function", "function": {"name": …}}]}`"""

    model_config = ConfigDict(extra="allow", strict=True)

    mode: Literal["auto", "required"]
    tools: Many[dict[str, Any]]


class ToolChoice(BaseModel):
    """A choice written as an object: one function by name, or the tools that are allowed."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["function", "allowed_tools"] = "function"
    function: FunctionName | None = None
    allowed_tools: AllowedTools | None = None


def tool_policy(
    choice: str | ToolChoice | None, tools: list[dict[str, Any]] | None, parallel: bool | None
) -> ToolPolicy:
    """What `tool_choice` and `parallel_tool_calls` ask for. Raises InvalidRequestError (param "tool_choice")."""
    given = [_name(tool) for tool in tools or []]
    policy = _chosen(choice)
    if policy.mode == "required" and not given:
        raise InvalidRequestError("tool_choice asks for a call, but no tools were given.", param="tool_choice")
    for name in policy.names:
        if name not in given:
            there = ", ".join(f"'{known}'" for known in given) or "none"
            raise InvalidRequestError(
                f"tool_choice names '{name[:64]}', which is not among the tools: {there}.", param="tool_choice"
            )
    return ToolPolicy(policy.mode, policy.names, True if parallel is None else parallel)


def _chosen(choice: str | ToolChoice | None) -> ToolPolicy:
    if choice is None:
        return ToolPolicy()
    if isinstance(choice, str):
        if choice not in _MODES:
            raise InvalidRequestError(
                f"tool_choice must be one of {', '.join(_MODES)} or name a function, not {choice[:40]!r}.",
                param="tool_choice",
            )
        return ToolPolicy(_MODES[choice])
    if choice.type == "allowed_tools":
        if choice.allowed_tools is None or not choice.allowed_tools.tools:
            raise InvalidRequestError("tool_choice allows no tools at all.", param="tool_choice.allowed_tools")
        names = tuple(_name(tool) for tool in choice.allowed_tools.tools)
        return ToolPolicy("auto" if choice.allowed_tools.mode == "auto" else "required", names)
    if choice.function is None:
        raise InvalidRequestError("tool_choice of type 'function' needs its name.", param="tool_choice.function")
    return ToolPolicy("required", (choice.function.name,))


def _name(tool: dict[str, Any]) -> str:
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else tool.get("name")
    return name if isinstance(name, str) else ""
