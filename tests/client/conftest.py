"""The server tests' nodes, for clients to talk to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parent.parent / folder) for folder in ("server", "link")]

from nodes import Node, running_node


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    with running_node() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OSTRO_API_KEY", "OSTRO_EDGE_URL", "OSTRO_CLOUD_URL"):
        monkeypatch.delenv(name, raising=False)
