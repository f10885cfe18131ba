"""One SQLite database in WAL mode, used from threads so that an event loop never waits on the disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import QueuePool, StaticPool

from ostro.core.errors import ConfigError, OstroError, StorageError
from ostro.storage.migrations import migrate

T = TypeVar("T")

_BUSY_S = 10.0
_THREADS = 4
_WRITES = "ostro_writes"
_MEMORY = (None, "", ":memory:")


class Database:
    """Tables, and a folder for files beside them.

    where: a path, an sqlite URL, or None for one in memory that ends with the process. Several processes may open
    one file. Opening creates and migrates it; it raises ConfigError for other URLs, for a file that is no database
    and for one that a newer Ostro has written.

    `read` and `write` run a function in one transaction on a thread of this database: all of it is kept, or nothing
    where it raises. They raise StorageError where the disk fails. Work must not keep the connection.
    """

    def __init__(self, where: Path | str | None = None) -> None:
        self.path = _path_of(where)
        self._temporary: Path | None = None
        self._folder_lock = threading.Lock()
        # In memory there is one connection, so one thread.
        threads = _THREADS if self.path else 1
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="ostro-store")
        self._alone = None if self.path else threading.RLock()
        self._engine = _engine(self.path, threads)
        try:
            if self.path is not None:
                _create(self.path)
            with self._transaction(writes=True) as connection:
                migrate(connection)
        except (OSError, StorageError) as error:
            self.close()
            reason = error.message if isinstance(error, OstroError) else f"{error.strerror or error}."
            raise ConfigError(
                f"Cannot open the store {self.path}: {reason} Choose another file with --store.", param="store"
            ) from error
        except BaseException:  # whatever it was, no open connection stays
            self.close()
            raise

    async def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns; it sees one state of the database throughout."""
        return await self.off_loop(lambda: self.read_now(work))

    async def write(self, work: Callable[[Connection], T]) -> T:
        """As `read`, for work that changes something. Writers of all processes take turns."""
        return await self.off_loop(lambda: self.write_now(work))

    def read_now(self, work: Callable[[Connection], T]) -> T:
        """`read` on the calling thread."""
        with self._transaction(writes=False) as connection:
            return work(connection)

    def write_now(self, work: Callable[[Connection], T]) -> T:
        """`write` on the calling thread."""
        with self._transaction(writes=True) as connection:
            return work(connection)

    async def off_loop(self, work: Callable[[], T]) -> T:
        """Run blocking work on a thread of this database: file work belongs to the store as well."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def folder(self, name: str) -> Path:
        """A folder for files of one kind, created at need; for a database in memory a temporary one."""
        with self._folder_lock:
            if self.path is None and self._temporary is None:
                self._temporary = Path(tempfile.mkdtemp(prefix="ostro-store-"))
                # Uploads do not outlive the process, even where nobody closes this.
                weakref.finalize(self, shutil.rmtree, self._temporary, True)
            root = self._temporary if self.path is None else self.path.with_name(self.path.name + ".files")
            assert root is not None
            folder = root / name
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return folder

    def close(self) -> None:
        """Wait for what runs, then let go of the file."""
        self._executor.shutdown(wait=True)
        self._engine.dispose()
        with self._folder_lock:
            if self._temporary is not None:
                shutil.rmtree(self._temporary, ignore_errors=True)
                self._temporary = None

    @contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[Connection]:
        with self._alone or contextlib.nullcontext():
            try:
                # Options are given before the transaction begins: its first statement depends on them.
                with self._engine.connect().execution_options(**{_WRITES: writes}) as connection, connection.begin():
                    yield connection
            except SQLAlchemyError as error:
                raise StorageError(_words(error)) from error


def _path_of(where: Path | str | None) -> Path | None:
    """The file behind a path or URL, None for memory. Raises ConfigError."""
    if where is None or where == ":memory:":
        return None
    if isinstance(where, Path) or "://" not in where:
        return Path(where).expanduser().absolute()
    try:
        url = make_url(where)
    except ArgumentError as error:
        raise ConfigError(f"The store {where!r} is neither a path nor a database URL.", param="store") from error
    if url.drivername not in ("sqlite", "sqlite+pysqlite") or url.host or url.query:
        shown = url.render_as_string(hide_password=True)
        raise ConfigError(
            f"The store {shown} cannot be used: only SQLite is supported, as a path or as sqlite:///PATH.",
            param="store",
        )
    return None if url.database in _MEMORY else Path(str(url.database)).expanduser().absolute()


def _create(path: Path) -> None:
    """An empty file that only its owner reads: the store holds what people asked."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _engine(path: Path | None, threads: int) -> Engine:
    arguments: dict[str, Any] = {"check_same_thread": False, "timeout": _BUSY_S}
    if path is None:
        engine = create_engine("sqlite://", poolclass=StaticPool, connect_args=arguments)
    else:
        url = URL.create("sqlite", database=str(path))
        # One more for each thread that calls `read_now` and `write_now` itself.
        engine = create_engine(
            url, poolclass=QueuePool, pool_size=threads, max_overflow=threads, connect_args=arguments
        )
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def _configure(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # the driver's own, late BEGIN would leave reads outside of transactions
    # Changing the journal's mode takes the whole file for a moment, and does not wait as statements do.
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin(connection: Connection) -> None:
    # A writer says so at once: a reader that turns into one fails when another wrote in between, however long it waits.
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _words(error: SQLAlchemyError) -> str:
    said = str(error.orig if isinstance(error, DBAPIError) else error)
    if "locked" in said or "busy" in said:
        return f"The store was held by another process for over {_BUSY_S:g} s. Try again."
    if "full" in said:
        return "The disk of the store is full. Make room and try again."
    return f"The store failed: {said}."
