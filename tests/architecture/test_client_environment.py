"""The clients that `make test` tries against a node live in an environment of their own, all of it pinned."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PINS = ROOT / "constraints-clients.txt"
PYTHON = ROOT / ".venv-clients" / "bin" / "python"


def _name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def test_the_environment_is_what_the_pins_say() -> None:
    lines = [line for line in PINS.read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    wanted = {_name(name): version for name, version in (line.split("==") for line in lines)}
    assert {"openai", "mistralai", "langchain-openai", "langchain-mistralai", "litellm", "lm-eval"} <= wanted.keys()
    if not PYTHON.exists():
        assert not os.environ.get("CI"), "no environment for clients: run 'make test'"
        pytest.skip("no environment for clients; 'make test' makes it and runs tests_clients/ in it")
    listed = subprocess.run([PYTHON, "-m", "pip", "list", "--format", "json"], capture_output=True, check=True).stdout
    installed = {_name(entry["name"]): entry["version"] for entry in json.loads(listed)}
    assert {name: installed.get(name) for name in wanted} == wanted
