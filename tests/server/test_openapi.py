"""The description at /openapi.json is whole: every reference leads somewhere, every answer has a schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.testclient import TestClient
from nodes import Node
from pydantic import BaseModel

from ostro.web.body import RequestValidationError, handle_bad_parameter
from ostro.web.model_info import ModelInfo, ModelList
from ostro.web.openapi import describe, gives, takes


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for item in node:
            yield from _references(item)


def test_the_document_is_whole(node: Node) -> None:
    document = node.http.get("/openapi.json").json()
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(_references(document)) <= known
    assert '"$defs"' not in node.http.get("/openapi.json").text
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = (method, path)
            assert {"4XX", "5XX"} <= operation["responses"].keys(), where
            assert "422" not in operation["responses"], where
            good = [answer for status, answer in operation["responses"].items() if status.startswith("2")]
            assert good, where
            for answer in good:
                for media, content in answer.get("content", {}).items():
                    assert content["schema"], (*where, media)
            if method == "post" and "requestBody" in operation:
                assert operation["requestBody"]["content"], where


def test_errors_are_as_described(node: Node) -> None:
    document = node.http.get("/openapi.json").json()
    error = document["components"]["schemas"]["ErrorBody"]
    body = node.chat("x", temperature=-1).json()
    assert body.keys() == error["properties"].keys() == set(error["required"])


class Part(BaseModel):
    here: int


class Asked(BaseModel):
    part: Part


class Given(msgspec.Struct):
    part: PartOfAnswer


class PartOfAnswer(msgspec.Struct):
    there: str


PartOfAnswer.__name__ = "Part"  # a struct and a model may well have one name


def test_two_definitions_of_one_name_are_kept_apart_and_bad_parameters_are_400() -> None:
    app = FastAPI()
    describe(app)
    app.add_exception_handler(RequestValidationError, handle_bad_parameter)

    @app.post("/a", openapi_extra=takes(Asked), responses=gives(Given))
    async def a() -> None: ...

    @app.get("/b", responses=gives(Asked))
    async def b(limit: int = 1) -> None: ...

    document = app.openapi()
    schemas = document["components"]["schemas"]
    assert [*schemas["Part"]["properties"], *schemas["Part_2"]["properties"]] == ["here", "there"]
    taken = document["paths"]["/a"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert taken["properties"]["part"] == {"$ref": "#/components/schemas/Part"}
    refused = TestClient(app).get("/b?limit=x")
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "limit"


def test_models_are_as_described(node: Node) -> None:
    msgspec.json.decode(node.http.get("/v1/models").content, type=ModelList, strict=True)
    told = node.http.get("/v1/models/fake").json()
    assert told.keys() == set(ModelInfo.__struct_fields__)
