"""The description of an application that FastAPI cannot make by itself: bodies that routes read on their own, answers
that are msgspec structs, and errors.

A route says what it takes and gives with `takes` and `gives`; `describe` then puts one consistent document together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

_DEFS = "#/$defs/"
_COMPONENTS = "#/components/schemas/"
_FAULTS = {"4XX": "The request is at fault", "5XX": "The server is at fault, or not ready"}


class ErrorFields(msgspec.Struct):
    """What went wrong. param: the field of the request that it is about."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct):
    """Every error: as OpenAI's clients read it under `error`, as Mistral's read it beside."""

    error: ErrorFields
    object: str
    message: str
    type: str
    param: str | None
    code: str | None


def takes(kind: type[BaseModel], *, media: str = "application/json") -> dict[str, Any]:
    """For a route's `openapi_extra`: the body that it reads by itself."""
    return {"requestBody": {"required": True, "content": {media: {"schema": kind.model_json_schema()}}}}


def takes_form(kind: type[BaseModel], *, file: str = "file") -> dict[str, Any]:
    """The same for a multipart form. kind: its fields; file: the part beside them that holds a file."""
    schema = kind.model_json_schema()
    schema["properties"] = {file: {"type": "string", "format": "binary"}, **schema["properties"]}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def gives(
    kind: Any, *, streamed: Any = None, plain: bool = False, status: int = 200, description: str = "The answer"
) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`. kind: what its JSON decodes to, as msgspec or pydantic know it; a media type where
    it is no JSON. streamed: what the data of each event decodes to, where it may also come as server-sent events.
    plain: whether it may also come as plain text."""
    content: dict[str, Any]
    if isinstance(kind, str):
        content = {kind: {"schema": {"type": "string"}}}
    else:
        content = {"application/json": {"schema": _schema(kind)}}
    if streamed is not None:
        content["text/event-stream"] = {"schema": _event(streamed)}
    if plain:
        content["text/plain"] = {"schema": {"type": "string"}}
    return {status: {"description": description, "content": content}}


def fails(kind: Any) -> dict[int | str, dict[str, Any]]:
    """For the `responses` of a route whose errors are not `ErrorBody`."""
    return {
        status: {"description": what, "content": {"application/json": {"schema": _schema(kind)}}}
        for status, what in _FAULTS.items()
    }


def describe(app: FastAPI) -> None:
    """Make `app.openapi` give the whole document: shared schemas in one place, error bodies on every route."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            raw = get_openapi(title=app.title, version=app.version, routes=app.routes)
            app.openapi_schema = _completed(raw)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # as FastAPI's manual has it


def _event(kind: Any) -> dict[str, Any]:
    """One server-sent event; before OpenAPI 3.2 the schema of a stream is that of its events."""
    json = {"type": "string", "contentMediaType": "application/json", "contentSchema": _schema(kind)}
    data = {"anyOf": [json, {"const": "[DONE]"}]}
    return {"type": "object", "properties": {"data": data, "event": {"type": "string"}}, "required": ["data"]}


def _schema(kind: Any) -> dict[str, Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.model_json_schema(mode="serialization")
    return msgspec.json.schema(kind)


def _completed(raw: dict[str, Any]) -> dict[str, Any]:
    shared: dict[str, Any] = {}
    for name, schema in raw.pop("components", {}).get("schemas", {}).items():
        if "ValidationError" not in name:  # FastAPI's 422, which no route here answers
            shared[name] = schema
    error = _hoisted(_schema(ErrorBody), shared)
    for operations in raw["paths"].values():
        for operation in operations.values():
            responses = operation["responses"]
            responses.pop("422", None)
            for kind, what in _FAULTS.items():
                responses.setdefault(kind, {"description": what, "content": {"application/json": {"schema": error}}})
    paths = _hoisted(raw.pop("paths"), shared)
    return {**raw, "paths": paths, "components": {"schemas": shared}}


def _hoisted(node: Any, shared: dict[str, Any]) -> Any:
    """`node` with its `$defs` moved into `shared` and its references pointing there.

    Two definitions of one name that differ are kept apart by a number.
    """
    if isinstance(node, list):
        return [_hoisted(item, shared) for item in node]
    if not isinstance(node, dict):
        return node
    names = _new_names(node.get("$defs", {}), shared)
    node = {key: value for key, value in node.items() if key != "$defs"}
    node = _renamed(node, names)
    return {key: _hoisted(value, shared) for key, value in node.items()}


def _new_names(definitions: Mapping[str, Any], shared: dict[str, Any]) -> dict[str, str]:
    """What each definition is called in `shared`, once it is there."""
    names = {name: name for name in definitions}
    while True:
        renamed = {name: _renamed(schema, names) for name, schema in definitions.items()}
        taken = [name for name, schema in renamed.items() if shared.get(names[name], schema) != schema]
        if not taken:
            break
        for name in taken:
            stem, _, number = names[name].partition("_")
            names[name] = f"{stem}_{int(number or 1) + 1}"
    shared |= {names[name]: schema for name, schema in renamed.items()}
    return names


def _renamed(node: Any, names: Mapping[str, str]) -> Any:
    """References to definitions as references to what they are called in the document."""
    if isinstance(node, list):
        return [_renamed(item, names) for item in node]
    if isinstance(node, dict):
        return {key: _renamed(value, names) for key, value in node.items()}
    if isinstance(node, str) and node.startswith(_DEFS) and node.removeprefix(_DEFS) in names:
        return _COMPONENTS + names[node.removeprefix(_DEFS)]
    return node
