"""Regular expressions read the same by everybody: their dialects differ in what `\\d`, `\\w` and `\\s` stand for.

ECMAScript's, which JSON schemas are written in, are ASCII; Python's and Rust's are Unicode's, of different editions.
Whatever checks an answer later, ASCII's characters match.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ASCII = {"d": "0-9", "w": "A-Za-z0-9_", "s": r"\x20\t\n\r\f\v"}

# Keywords whose values are data, not schemas.
_DATA = ("const", "enum", "default", "example", "examples", "required")


def ascii_classes(pattern: str) -> str:
    """`pattern` with the classes of digits, word characters and white space written out as ASCII's.

    Within a negated class they stay as they are, since there the larger class allows less.

    >>> ascii_classes(r"\\d{2}[\\d.][^\\d]\\\\d")
    '[0-9]{2}[0-9.][^\\\\d]\\\\\\\\d'
    """
    written: list[str] = []
    classes: list[bool] = []  # open brackets, each whether it or one around it is negated
    at = 0
    while at < len(pattern):
        char = pattern[at]
        taken = 1
        if char == "\\":
            name = pattern[at + 1 : at + 2]
            taken = 2
            if name not in _ASCII or (classes and classes[-1]):
                written.append(char + name)
            else:
                written.append(_ASCII[name] if classes else f"[{_ASCII[name]}]")
        elif char == "[":
            negated = pattern[at + 1 : at + 2] == "^"
            taken = 1 + negated
            # A bracket that closes right away is one of the class.
            taken += pattern[at + taken : at + taken + 1] == "]"
            classes.append(negated or bool(classes and classes[-1]))
            written.append(pattern[at : at + taken])
        else:
            if char == "]" and classes:
                classes.pop()
            written.append(char)
        at += taken
    return "".join(written)


def ascii_schema(schema: Any) -> Any:
    """A JSON schema with all its patterns so, as a copy where there are any."""
    if isinstance(schema, list | tuple):
        return [ascii_schema(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    made: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword == "pattern" and isinstance(value, str):
            made[keyword] = ascii_classes(value)
        elif keyword == "patternProperties" and isinstance(value, Mapping):
            made[keyword] = {ascii_classes(name): ascii_schema(one) for name, one in value.items()}
        elif keyword in ("properties", "$defs", "definitions", "dependentSchemas") and isinstance(value, Mapping):
            made[keyword] = {name: ascii_schema(one) for name, one in value.items()}
        else:
            made[keyword] = value if keyword in _DATA else ascii_schema(value)
    return made
