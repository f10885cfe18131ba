"""Grammars that an answer must match, in the form that crosses to the engine: llguidance's, as JSON text.

Everything here is cheap and torch-free: sizes and nesting are checked, nothing is compiled. What a grammar costs to
compile is found out in a process that can be killed (`core.grammar_compiler`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from ostro.core.errors import InvalidRequestError
from ostro.core.patterns import ascii_classes, ascii_schema

MAX_SCHEMA_BYTES = 256 * 1024
MAX_SCHEMA_NODES = 20_000
MAX_SCHEMA_DEPTH = 48
MAX_REGEX = 16 * 1024
MAX_GRAMMAR = 64 * 1024

# White space between JSON tokens: one blank, or a new line and its indent. Enough for every way to lay JSON out, and no
# way to go on for ever with blanks.
WHITE_SPACE = r"(\x20|\x0A\x20{0,32})"

# Lark's strings, regular expressions and comments; what is left outside them is the grammar's own. None goes back over
# what it took, so the time is in proportion to the grammar; a string without an end goes on to the end of its line.
_QUOTED = re.compile(
    r"""
      "(?:\\.|[^"\\\n]++)*+ (?: "i? | (?P<string>\\?) )
    | /(?:\\.|[^/\\\n]++)++ (?: /[a-z]* | (?P<pattern>\\?) )
    | //[^\n]*+
    | \#[^\n]*+
    """,
    re.DOTALL | re.VERBOSE,
)


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
    """JSON text that is valid against `schema`. Raises InvalidRequestError for one too large or too deep."""
    return _written({"json_schema": guided_schema(schema)})


def json_object() -> str:
    """Any JSON object."""
    return json_schema({"type": "object"})


def regex(pattern: str) -> str:
    """Text that `pattern` matches as a whole (Rust's regex syntax, without look-around).

    Raises InvalidRequestError for one too long.
    """
    return _written({"lark_grammar": f"start: {regex_literal(pattern)}"})


def lark(grammar: str) -> str:
    """Text of a context-free grammar from its rule `start`: llguidance's Lark dialect, or GBNF's from `root`.

    Raises InvalidRequestError for one too long, one that names control tokens, or GBNF that cannot be translated.
    """
    return _written({"lark_grammar": checked_grammar(grammar)})


def of_response(response: ResponseFormat) -> str | None:
    """The grammar of an answer that is text alone; None where any text will do."""
    match response.kind, response.value:
        case "json_object", _:
            return json_object()
        case "json_schema", schema if schema is not None and not isinstance(schema, str):
            return json_schema(schema)
        case "regex", str(pattern):
            return regex(pattern)
        case "grammar", str(grammar):
            return lark(grammar)
        case _:
            return None


def guided_schema(schema: Mapping[str, Any] | bool, *, lenient: bool = False) -> dict[str, Any]:
    """The schema with how to write it. lenient: keywords that cannot be enforced are passed over, not refused."""
    _check_schema(schema)
    options: dict[str, Any] = {"whitespace_pattern": WHITE_SPACE}
    if lenient:
        options["lenient"] = True
    if isinstance(schema, bool):
        return {"x-guidance": options} if schema else {"not": {}, "x-guidance": options}
    return {**ascii_schema(schema), "x-guidance": options}


def regex_literal(pattern: str) -> str:
    """A regular expression as Lark writes it, between slashes, with `\\d`, `\\w` and `\\s` as ASCII's.

    >>> regex_literal("a/b"), regex_literal("a" + chr(10))
    ('/a\\\\/b/', '/a\\\\n/')
    """
    if not pattern:
        return '""'
    if len(pattern) > MAX_REGEX:
        raise _refusal(f"A regular expression may have {MAX_REGEX} characters, this one has {len(pattern)}.")
    escapes = {"/": r"\/", "\n": r"\n", "\r": r"\r"}
    written: list[str] = []
    characters = iter(ascii_classes(pattern))
    for char in characters:
        if char == "\\":
            escaped = next(characters, "")
            if not escaped:
                raise _refusal("The regular expression ends with a backslash that escapes nothing.")
            written.append(escapes.get(escaped, "\\" + escaped))
        else:
            written.append(escapes.get(char, char))
    return "/" + "".join(written) + "/"


def checked_grammar(grammar: str) -> str:
    """A user's grammar in Lark. Control tokens must not be named in it: none may reach an answer's text."""
    if len(grammar) > MAX_GRAMMAR:
        raise _refusal(f"A grammar may have {MAX_GRAMMAR} characters, this one has {len(grammar)}.")
    if "::=" in grammar:
        grammar = _from_gbnf(grammar)
    if "<" in _QUOTED.sub(_if_open, grammar):
        raise _refusal("The grammar names a token (in angle brackets); only text can be described here.")
    return grammar


def _if_open(quoted: re.Match[str]) -> str:
    """A string or pattern without an end may be none: what it holds is looked at as well."""
    return "" if quoted["string"] is None and quoted["pattern"] is None else quoted[0]


def _from_gbnf(grammar: str) -> str:
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        return str(any_to_lark(grammar))
    except Exception as error:  # the converter raises what its parser happens to
        raise _refusal(f"The GBNF grammar cannot be translated: {str(error)[:200]}.") from error


def _check_schema(schema: object) -> None:
    """Walk before anything writes it out: ten megabytes are refused without being copied."""
    nodes = 0  # each counted with its children before they are looked at, and again then
    waiting: list[tuple[object, int]] = [(schema, 1)]
    while waiting:
        value, depth = waiting.pop()
        nodes += 1 + (len(value) if isinstance(value, Mapping | list | tuple) else 0)
        if depth > MAX_SCHEMA_DEPTH:
            raise _refusal(f"The JSON schema is nested more than {MAX_SCHEMA_DEPTH} levels deep.")
        if nodes > 2 * MAX_SCHEMA_NODES:
            raise _refusal(f"The JSON schema has more than {MAX_SCHEMA_NODES} values.")
        if isinstance(value, Mapping):
            waiting.extend((child, depth + 1) for child in value.values())
        elif isinstance(value, list | tuple):
            waiting.extend((child, depth + 1) for child in value)
        elif isinstance(value, str) and len(value) > MAX_SCHEMA_BYTES:
            raise _refusal(f"The JSON schema has a text of {len(value)} characters.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise _refusal("The JSON schema has a number that is too large to be one.")


def _written(grammar: Mapping[str, Any]) -> str:
    try:
        text = json.dumps({"grammars": [grammar]}, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise _refusal(f"The schema is no JSON: {str(error)[:100]}.") from error
    if len(text) > MAX_SCHEMA_BYTES:
        raise _refusal(f"The schema is {len(text)} bytes long; at most {MAX_SCHEMA_BYTES} are taken.")
    return text


def _refusal(reason: str) -> InvalidRequestError:
    return InvalidRequestError(reason, param="response_format", code="invalid_grammar")
