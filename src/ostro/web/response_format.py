"""What the text of an answer must be, in the spellings that clients have for it."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ostro.core.constraints import ResponseFormat
from ostro.core.errors import InvalidRequestError
from ostro.web.bounded import Many

MAX_CHOICES = 1024


class JsonSchemaFormat(BaseModel):
    """`json_schema` of a response format; Mistral's client writes the schema as `schema` too."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | bool | None = Field(default=None, alias="schema")
    strict: bool | None = None


class WireResponseFormat(BaseModel):
    """OpenAI's and Mistral's `response_format`, and two kinds more: `regex` and `grammar` (Lark, or GBNF)."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["text", "json_object", "json_schema", "regex", "grammar"]
    json_schema: JsonSchemaFormat | None = None
    regex: str | None = None
    grammar: str | None = None

    def read(self) -> ResponseFormat:
        """Raises InvalidRequestError for a kind without its value."""
        match self.type:
            case "json_schema":
                schema = None if self.json_schema is None else self.json_schema.schema_
                return ResponseFormat("json_schema", _needed(schema, "json_schema.schema"))
            case "regex":
                return ResponseFormat("regex", _needed(self.regex, "regex"))
            case "grammar":
                return ResponseFormat("grammar", _needed(self.grammar, "grammar"))
            case _:
                return ResponseFormat(self.type)


class StructuredOutputs(BaseModel):
    """The spelling of self-hosted servers: one of these fields."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    json_: dict[str, Any] | str | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: Many[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None

    def read(self, where: str) -> ResponseFormat:
        """Raises InvalidRequestError unless exactly one field is given."""
        given = [name for name in ("json_", "regex", "choice", "grammar") if getattr(self, name) is not None]
        given += ["json_object"] if self.json_object else []
        if len(given) != 1:
            raise InvalidRequestError(
                f"{where} takes exactly one of json, regex, choice, grammar and json_object.", param=where
            )
        if self.json_ is not None:
            return ResponseFormat("json_schema", _parsed(self.json_, where))
        if self.regex is not None:
            return ResponseFormat("regex", self.regex)
        if self.choice is not None:
            return one_of(self.choice, where)
        return ResponseFormat("json_object") if self.grammar is None else ResponseFormat("grammar", self.grammar)


def one_of(choices: list[str], where: str) -> ResponseFormat:
    """One of some texts, as it is. Raises InvalidRequestError for an empty list or too long a one."""
    if not 0 < len(choices) <= MAX_CHOICES or not all(choices):
        raise InvalidRequestError(f"{where} needs 1 to {MAX_CHOICES} texts, none of them empty.", param=where)
    return ResponseFormat("regex", "|".join(re.escape(choice) for choice in choices))


def _parsed(schema: dict[str, Any] | str, where: str) -> dict[str, Any]:
    import msgspec

    if isinstance(schema, dict):
        return schema
    try:
        return msgspec.json.decode(schema, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise InvalidRequestError(f"{where} holds a schema that is no JSON object: {error}.", param=where) from error


def _needed(value: Any, field: str) -> Any:
    if value is None:
        where = f"response_format.{field}"
        raise InvalidRequestError(f"{where} is missing.", param=where, code="missing_required_parameter")
    return value
