"""Grammars that an answer must match, in the form that crosses to the engine: llguidance's, as JSON text.

Everything here is cheap and torch-free: sizes and nesting are checked, nothing is compiled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import msgspec


class ResponseFormat(msgspec.Struct, frozen=True):
    """What the text of an answer must be. value: the schema, the regular expression or the grammar of its kind."""

    kind: Literal["text", "json_object", "json_schema", "regex", "grammar"] = "text"
    value: Mapping[str, Any] | bool | str | None = None


class ToolPolicy(msgspec.Struct, frozen=True):
    """Which tools an answer may or must call.

    mode: "auto" leaves it to the model, "none" forbids calls, "required" wants at least one.
    names: only these tools; empty allows all. parallel: whether an answer may hold more than one call.
    """

    mode: Literal["auto", "none", "required"] = "auto"
    names: tuple[str, ...] = ()
    parallel: bool = True


def json_schema(schema: Mapping[str, Any] | bool) -> str:
    """JSON text that is valid against `schema`."""
    return json.dumps({"grammars": [{"json_schema": schema}]})


def json_object() -> str:
    """Any JSON object."""
    return json_schema({"type": "object"})


def regex(pattern: str) -> str:
    """Text that `pattern` matches as a whole (Rust's regex syntax, without look-around)."""
    return json.dumps({"grammars": [{"lark_grammar": f"start: {_literal(pattern)}"}]})


def lark(grammar: str) -> str:
    """Text of a context-free grammar in llguidance's Lark dialect, from its rule `start`."""
    return json.dumps({"grammars": [{"lark_grammar": grammar}]})


def _literal(pattern: str) -> str:
    return "/" + pattern.replace("/", "\\/") + "/"
