"""One node for all tests that leave it as they found it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "link"))  # the fake engine's prompts are shared

from nodes import Node, running_node


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    with running_node(heartbeat_s=0.3) as running:
        yield running
