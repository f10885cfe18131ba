"""Grammars of chat answers, by tokenizer version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ostro.core.constraints import ResponseFormat, ToolPolicy
from ostro.core.errors import InvalidRequestError
from ostro.tokenizer.base import Tokenizer


def chat_constraint(
    tokenizer: Tokenizer,  # noqa: ARG001
    *,
    tools: Sequence[Mapping[str, Any]],  # noqa: ARG001
    policy: ToolPolicy,
    response: ResponseFormat,
) -> str | None:
    """First version: nothing is constrained."""
    if policy.mode == "required" or response.kind != "text":
        raise InvalidRequestError("Constrained answers are not supported yet.", param="response_format")
    return None
