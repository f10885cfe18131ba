"""Stores that the ledger is held to: SQLite, and PostgreSQL where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_server import PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a gateway keeps its keys: a new file, or a schema that is emptied."""
    if request.param == "sqlite":
        return str(tmp_path / "gateway.db")
    server: PostgresServer = request.getfixturevalue("postgres")
    server.empty()
    return server.url
