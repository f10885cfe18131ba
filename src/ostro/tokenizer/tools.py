"""OpenAI-shaped tools, checked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ostro.core.errors import InvalidRequestError
from ostro.tokenizer.base import replace_surrogates

FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Function:
    """A function that may be called. parameters: the JSON schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    strict: bool


def read_tools(tools: Sequence[Mapping[str, Any]]) -> list[Function]:
    """Raises InvalidRequestError whose param names the field, such as `tools[0].function.name`."""
    functions: list[Function] = []
    names: set[str] = set()
    for index, tool in enumerate(tools):
        function = _read_tool(f"tools[{index}]", tool)
        if function.name in names:
            where = f"tools[{index}].function.name"
            raise InvalidRequestError(f"{where}: there are two tools of the name '{function.name}'.", param=where)
        names.add(function.name)
        functions.append(function)
    return functions


def _read_tool(where: str, tool: object) -> Function:
    if not isinstance(tool, Mapping):
        raise _refusal(f"{where} must be an object.", where)
    kind = tool.get("type", "function")
    if kind != "function":
        raise _refusal(f"{where} is of type {str(kind)[:40]!r}; only functions can be called here.", f"{where}.type")
    function = tool.get("function")
    if not isinstance(function, Mapping):
        raise _refusal(f"{where}.function must be an object with a name and parameters.", f"{where}.function")
    name = function.get("name")
    if not isinstance(name, str) or not FUNCTION_NAME.fullmatch(name):
        raise _refusal(
            f"{where}.function.name must have 1 to 64 letters, digits, underscores and dashes.",
            f"{where}.function.name",
        )
    description = function.get("description")
    if description is not None and not isinstance(description, str):
        raise _refusal(f"{where}.function.description must be a string.", f"{where}.function.description")
    return Function(
        name,
        replace_surrogates(description or ""),
        _parameters(f"{where}.function.parameters", function.get("parameters")),
        function.get("strict") is True,
    )


def _parameters(where: str, parameters: object) -> Mapping[str, Any]:
    if parameters is None:
        return {"type": "object", "properties": {}}
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise _refusal(f"{where} must be a JSON schema of type 'object'.", where)
    try:
        clean: dict[str, Any] = json.loads(replace_surrogates(json.dumps(parameters, ensure_ascii=False)))
    except (ValueError, TypeError, RecursionError) as error:
        raise _refusal(f"{where} cannot be written as JSON: {str(error)[:80]}.", where) from error
    return clean


def _refusal(reason: str, param: str) -> InvalidRequestError:
    return InvalidRequestError(reason, param=param)
