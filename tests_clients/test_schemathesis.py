"""schemathesis over the node's own description: what it gives is as described, what it is given never breaks it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nodes import Node, fixture_node
from script import SCRIPT

# Fields that would mostly miss the model, or ask for more than its context; all else is as the node describes it.
MODEL: dict[str, dict[str, Any]] = {"model": {"enum": ["scripted", None]}}
FEW = {"type": "integer", "minimum": 1, "maximum": 8}
NARROWED = MODEL | {"max_tokens": FEW, "max_completion_tokens": FEW, "max_output_tokens": FEW}
OF_FORMS = ("expiry", "sample_type")
# Ranges of sampling parameters depend on the model and on each other; what is out of them is 400, not in the schema.
UNCHECKED = "positive_data_acceptance"


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Node]:
    """A node of its own: what is left in its store is nobody else's."""
    with fixture_node("scripted_node.py", models={"scripted": {"script": SCRIPT}}) as node:
        yield node


def _narrow(node: Any, to: dict[str, dict[str, Any]]) -> Any:
    if isinstance(node, list):
        return [_narrow(item, to) for item in node]
    if not isinstance(node, dict):
        return node
    narrowed = {key: _narrow(value, to) for key, value in node.items()}
    properties = narrowed.get("properties")
    if isinstance(properties, dict):
        narrowed["properties"] = properties | {name: to[name] for name in to.keys() & properties.keys()}
        narrowed["properties"].pop("timeout", None)  # a deadline that passes is a 504, rightly
    return narrowed


def _description(node: Node, folder: Path, to: dict[str, dict[str, Any]]) -> Path:
    with urllib.request.urlopen(f"{node.url}/openapi.json") as answer:
        document = json.load(answer)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if "requestBody" not in operation:
                continue
            body = operation["requestBody"] = _narrow(operation["requestBody"], to)
            if path.endswith("/moderations"):
                body["content"]["application/json"]["schema"]["properties"]["model"] = {"enum": ["ostro-rules", None]}
            # In a form an empty list is no field at all, so a field that is not required cannot be given wrongly by it.
            for name in OF_FORMS:
                body["content"].get("multipart/form-data", {}).get("schema", {}).get("properties", {}).pop(name, None)
    written = folder / "openapi.json"
    written.write_text(json.dumps(document))
    return written


def _fuzz(node: Node, folder: Path, phases: str, examples: int, narrowed: dict[str, dict[str, Any]]) -> None:
    described = _description(node, folder, narrowed)
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", str(described)]
    options = {
        "--url": node.url,
        "--phases": phases,
        "--max-examples": str(examples),
        "--mode": "all",
        "--exclude-checks": UNCHECKED,
        "--request-timeout": "30",
        "--seed": "1",
        "--max-failures": "10",
    }
    flat = [word for option in options.items() for word in option]
    run = subprocess.run([*command, "--no-color", *flat], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2_000:]
    with urllib.request.urlopen(f"{node.url}/health/ready") as answer:
        assert answer.status == 200


def test_the_node_does_as_it_says(fuzzed: Node, tmp_path: Path) -> None:
    _fuzz(fuzzed, tmp_path, "fuzzing", 12, NARROWED)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_node_does_as_it_says_for_long(fuzzed: Node, tmp_path: Path) -> None:
    # Coverage takes each bound that is described and goes beyond it, so only the node's own may be.
    _fuzz(fuzzed, tmp_path, "examples,coverage", 150, MODEL)
    _fuzz(fuzzed, tmp_path, "fuzzing,stateful", 150, NARROWED)
