"""Nodes that all clients share. Nothing here reaches beyond this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from nodes import PYTHON, Node, fixture_node, live_node
from script import SCRIPT

# What these libraries would fetch or report by themselves. Set before any of them is imported.
os.environ |= {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "LANGSMITH_TRACING": "false",
    "LANGCHAIN_TRACING_V2": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "NO_PROXY": "127.0.0.1,localhost",
}


_connect = socket.socket.connect


def _connect_here(self: socket.socket, address: Any) -> None:
    """No client may reach beyond this machine, whatever it would like to report or fetch."""
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise PermissionError(f"a client tried to reach {address[0]}")
    _connect(self, address)


socket.socket.connect = _connect_here  # type: ignore[method-assign]  # for all that run here


def pytest_configure(config: pytest.Config) -> None:
    """Without Ostro's environment there is no node to talk to."""
    if PYTHON.exists():
        return
    reason = f"{PYTHON} is not there; 'make test' makes it, or set OSTRO_PYTHON."
    if os.environ.get("CI"):
        pytest.exit(reason, returncode=1)
    pytest.exit(f"Skipped: {reason}", returncode=0)


@pytest.fixture(scope="session")
def live() -> Iterator[Node]:
    """The embedded model."""
    with live_node() as node:
        yield node


@pytest.fixture(scope="session")
def scripted() -> Iterator[Node]:
    """The model "scripted", which says what script.py has it say."""
    with fixture_node("scripted_node.py", models={"scripted": {"script": SCRIPT}}) as node:
        yield node


@pytest.fixture(scope="session")
def keyed() -> Iterator[Node]:
    """A node that wants the key "right" and takes two requests at most."""
    options = {"max_num_seqs": 1, "max_waiting": 1}
    models = {"scripted": {"script": SCRIPT, "options": options}}
    with fixture_node("scripted_node.py", models=models, api_keys=["right"]) as node:
        yield node


@pytest.fixture
def loading() -> Iterator[Node]:
    """A node whose model "fake" takes half a minute to load, from now on."""
    with fixture_node("fake_node.py", wait=False, model="slow") as node:
        yield node
