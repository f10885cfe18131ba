"""The database: opened by several, migrated once, all or nothing, and never in the way of the event loop."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, func, insert, inspect, select, text

from ostro.core.errors import ConfigError, StorageError
from ostro.storage import Database, database
from ostro.storage.migrations import MIGRATIONS, migrate
from ostro.storage.schema import metadata, migrations, responses


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "new" / "store.db" if request.param == "file" else None)
    yield made
    made.close()


def response(name: str, **fields: Any) -> dict[str, Any]:
    row = {"id": name, "created_at": 1.5, "model": "m", "body": {"a": [1, None]}, "input": [], "output": ["é"]}
    return {**row, **fields}


def add(connection: Connection, name: str, **fields: Any) -> None:
    connection.execute(insert(responses).values(response(name, **fields)))


def count(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(responses)).scalar_one()


def test_values_come_back_as_they_went_in(store: Database) -> None:
    name = "'; DROP TABLE responses; --"
    store.write_now(lambda connection: add(connection, name))
    row = store.read_now(lambda connection: connection.execute(select(responses)).one())
    assert dict(row._mapping) == {**response(name), "expires_at": None, "previous_id": None, "owner": ""}


def test_a_transaction_is_kept_whole_or_not_at_all(store: Database) -> None:
    def fails(connection: Connection) -> None:
        add(connection, "a")
        raise KeyError("in the middle")

    with pytest.raises(KeyError):
        store.write_now(fails)
    with pytest.raises(StorageError, match="UNIQUE"):
        store.write_now(lambda connection: (add(connection, "b"), add(connection, "b")))
    assert store.read_now(count) == 0


def test_many_writers_lose_nothing(store: Database) -> None:
    def increase(connection: Connection) -> None:  # read, then write: two that mix would lose one
        before = count(connection)
        add(connection, f"r{before}")

    async def main() -> None:
        await asyncio.gather(*(store.write(increase) for _ in range(50)))

    asyncio.run(main())
    assert store.read_now(count) == 50


def test_a_file_is_in_wal_mode_with_foreign_keys(tmp_path: Path) -> None:
    store = Database(tmp_path / "store.db")
    try:
        asked = {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 1}
        for name, value in asked.items():
            found = store.read_now(lambda connection, name=name: connection.execute(text(f"PRAGMA {name}")).scalar())
            assert found == value
        with pytest.raises(StorageError, match="FOREIGN KEY"):
            store.write_now(
                lambda connection: connection.execute(text("INSERT INTO batch_lines VALUES ('no job', 0, 1, '')"))
            )
    finally:
        store.close()


def test_the_event_loop_goes_on_while_another_process_holds_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_BUSY_S", 0.5)
    store = Database(tmp_path / "store.db")
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ticks = 0

    async def main() -> None:
        nonlocal ticks
        writing = asyncio.create_task(store.write(lambda connection: add(connection, "a")))
        while not writing.done():
            await asyncio.sleep(0.01)
            ticks += 1
        with pytest.raises(StorageError, match="held by another process"):
            await writing
        other.execute("ROLLBACK")
        await store.write(lambda connection: add(connection, "a"))

    try:
        asyncio.run(main())
        assert ticks > 15
        assert store.read_now(count) == 1
    finally:
        other.close()
        store.close()


def test_migrations_make_what_the_schema_says() -> None:
    store = Database()
    wanted = create_engine("sqlite://")
    try:
        with wanted.connect() as connection:
            metadata.create_all(connection)
            by_schema = _columns(connection)
        assert store.read_now(_columns) == by_schema
    finally:
        wanted.dispose()
        store.close()


_ALIASES = {"DOUBLE": "REAL"}  # how SQLAlchemy reads back its own DOUBLE and the standard's DOUBLE PRECISION


def _columns(connection: Connection) -> dict[str, list[tuple[str, str, bool, int]]]:
    looking = inspect(connection)
    return {
        table: [
            (
                column["name"],
                _ALIASES.get(str(column["type"]), str(column["type"])),
                column["nullable"],
                column["primary_key"],
            )  # type: ignore[typeddict-item]  # a part of the record
            for column in looking.get_columns(table)
        ]
        for table in sorted(looking.get_table_names())
    }


@pytest.mark.parametrize("old", range(1, len(MIGRATIONS)))
def test_an_older_store_is_brought_up_to_date_with_its_rows(tmp_path: Path, old: int) -> None:
    path = tmp_path / "store.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        migrate(connection, MIGRATIONS[:old])
        add(connection, "kept")
    engine.dispose()
    for _ in range(2):  # the second time there is nothing to do
        store = Database(path)
        try:
            numbers = store.read_now(lambda connection: connection.execute(select(migrations.c.number)).scalars().all())
            assert numbers == [migration.number for migration in MIGRATIONS]
            assert store.read_now(count) == 1
        finally:
            store.close()


def test_migrations_are_numbered_one_by_one() -> None:
    assert [migration.number for migration in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


def test_a_newer_store_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    Database(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO migrations VALUES (99, 'of the future', 0)")
    connection.close()
    with pytest.raises(ConfigError, match="migration 99") as caught:
        Database(path)
    assert caught.value.param == "store"


@pytest.mark.parametrize("where", ["postgresql://u:secret@h/d", "mysql://h/d", "sqlite:///x.db?mode=ro", "bad://"])
def test_other_urls_are_refused_without_their_password(where: str) -> None:
    with pytest.raises(ConfigError, match="only SQLite") as caught:
        Database(where)
    assert "secret" not in caught.value.message


def test_a_url_is_as_good_as_a_path(tmp_path: Path) -> None:
    store = Database(f"sqlite:///{tmp_path}/store.db")
    assert store.path == tmp_path / "store.db"
    store.close()
    for memory in ("sqlite://", "sqlite:///:memory:", ":memory:"):
        store = Database(memory)
        assert store.path is None
        store.close()


def test_what_cannot_be_opened_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database, but long enough to be looked at" * 100)
    (tmp_path / "file").touch()
    for path in (tmp_path / "text.db", tmp_path, tmp_path / "file" / "store.db"):
        with pytest.raises(ConfigError, match="Cannot open the store"):
            Database(path)


def test_several_processes_may_make_one_store_at_once(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    program = (
        "import sys; from ostro.storage import Database; from sqlalchemy import text\n"
        "store = Database(sys.argv[1])\n"
        "insert = text(\"INSERT INTO migrations VALUES (-:n, 'x', 0)\")\n"
        "for n in range(20): store.write_now(lambda c: c.execute(insert, {'n': int(sys.argv[2]) * 100 + n}))\n"
        "store.close()"
    )
    command = [sys.executable, "-c", program, str(path)]
    running = [subprocess.Popen([*command, str(number)]) for number in range(1, 5)]
    assert [process.wait(60) for process in running] == [0] * 4
    store = Database(path)
    try:
        rows = store.read_now(lambda connection: connection.execute(select(migrations.c.number)).scalars().all())
        assert len(rows) == 80 + len(MIGRATIONS)
    finally:
        store.close()


def test_files_of_a_store_in_memory_go_with_it() -> None:
    store = Database()
    folder = store.folder("files")
    (folder / "a").touch()
    store.close()
    assert not folder.exists()


def test_files_of_a_store_in_memory_go_with_a_process_that_never_closed_it() -> None:
    code = "from ostro.storage import Database; store = Database(); print(store.folder('files'))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not Path(shown.strip()).parent.exists()


def test_closing_waits_for_what_runs(tmp_path: Path) -> None:
    store = Database(tmp_path / "store.db")
    begun = threading.Event()

    def slow(connection: Connection) -> None:
        begun.set()
        time.sleep(0.3)
        add(connection, "a")

    async def main() -> None:
        writing = asyncio.create_task(store.write(slow))
        await asyncio.to_thread(begun.wait)
        await asyncio.to_thread(store.close)
        await writing

    asyncio.run(main())
    store = Database(tmp_path / "store.db")
    assert store.read_now(count) == 1
    store.close()
