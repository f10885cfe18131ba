"""Batch jobs in tests: their input, and what comes out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from nodes import Node, until

ENDED = ("SUCCESS", "FAILED", "TIMEOUT_EXCEEDED", "CANCELLED")


def chat_line(custom_id: str, text: str, **fields: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 1 + len(text), "seed": 0, **fields}
    return {"custom_id": custom_id, "body": body}


def token_line(custom_id: str, *tokens: int) -> dict[str, Any]:
    """For /v1/completions. The fake engine does as the first token says."""
    body = {"prompt": list(tokens), "max_tokens": len(tokens), "seed": 0}
    return {"custom_id": custom_id, "body": body}


def jsonl(lines: Iterable[Any]) -> bytes:
    return b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)


def upload(node: Node, data: bytes, name: str = "in.jsonl", **fields: str) -> dict[str, Any]:
    response = node.http.post("/v1/files", files={"file": (name, data)}, data={"purpose": "batch", **fields})
    assert response.status_code == 200, response.text
    made: dict[str, Any] = response.json()
    return made


def create(node: Node, **fields: Any) -> dict[str, Any]:
    response = node.http.post("/v1/batch/jobs", json={"endpoint": "/v1/chat/completions", **fields})
    assert response.status_code == 200, response.text
    made: dict[str, Any] = response.json()
    return made


def start(node: Node, lines: Iterable[Any], **fields: Any) -> dict[str, Any]:
    return create(node, input_files=[upload(node, jsonl(lines))["id"]], **fields)


def look(node: Node, job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = node.http.get(f"/v1/batch/jobs/{job['id']}").raise_for_status().json()
    return found


def ended(node: Node, job: dict[str, Any], seconds: float = 60.0) -> dict[str, Any]:
    until(lambda: look(node, job)["status"] in ENDED, seconds)
    return look(node, job)


def lines_of(node: Node, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    content = node.http.get(f"/v1/files/{file_id}/content").raise_for_status()
    return [json.loads(line) for line in content.text.splitlines()]


def said(line: dict[str, Any]) -> str:
    """The answer in a line of an output file."""
    choice = line["response"]["body"]["choices"][0]
    text: str = choice["message"]["content"] if "message" in choice else choice["text"]
    return text
