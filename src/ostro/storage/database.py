"""One database, used from threads so that an event loop never waits on the disk: SQLite in WAL mode, or PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
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

from ostro.core.errors import ConfigError, MissingExtraError, OstroError, StorageError
from ostro.storage.migrations import migrate

T = TypeVar("T")

_BUSY_S = 10.0
_THREADS = 4
_WRITES = "ostro_writes"
_MEMORY = (None, "", ":memory:")
_SERVERS = ("postgresql", "postgres", "postgresql+psycopg")
# Statements that wait for longer are given up, so that a server in trouble is an error and no silence.
_SERVER_OPTIONS = f"-c statement_timeout={_BUSY_S:.0f}s -c lock_timeout={_BUSY_S:.0f}s -c timezone=UTC"
_CONNECT_S = 5
# Of this application among a server's advisory locks: one process migrates at a time.
_MIGRATING = 0x6F7374726F


class Database:
    """Tables, and a folder for files beside them.

    where: a path, an sqlite URL, or None for one in memory that ends with the process. Several processes may open
    one file. Opening creates and migrates it; it raises ConfigError for other URLs, for a file that is no database
    and for one that a newer Ostro has written. servers: take a URL such as postgresql://user@host/name too; such a
    database has no folder for files. option: the setting that `where` came from, for errors to name.

    `read` and `write` run a function in one transaction on a thread of this database: all of it is kept, or nothing
    where it raises. They raise StorageError where the disk fails. Work must not keep the connection.
    """

    def __init__(self, where: Path | str | None = None, *, servers: bool = False, option: str = "--store") -> None:
        self.url = _server_of(where) if servers else None
        self.path = _path_of(where, servers) if self.url is None else None
        self._temporary: Path | None = None
        self._folder_lock = threading.Lock()
        # In memory there is one connection, so one thread.
        threads = _THREADS if self.path or self.url else 1
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="ostro-store")
        self._alone = None if self.path or self.url else threading.RLock()
        self._engine = _engine(self.path, threads) if self.url is None else _server_engine(self.url, threads)
        # Statements that SQLAlchemy does not run itself raise the driver's errors.
        self._driver_error: type[Exception] = self._engine.dialect.loaded_dbapi.Error
        try:
            if self.path is not None:
                _create(self.path)
            with self._transaction(writes=True) as connection:
                if self.url is not None:
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATING})")
                migrate(connection)
        except (OSError, StorageError) as error:
            self.close()
            reason = error.message if isinstance(error, OstroError) else f"{error.strerror or error}."
            shown = self.path or (self.url and self.url.render_as_string(hide_password=True))
            raise ConfigError(
                f"Cannot open the store {shown}: {reason} Choose another with {option}.", param="store"
            ) from error
        except BaseException:  # whatever it was, no open connection stays
            self.close()
            raise

    @property
    def is_server(self) -> bool:
        """Whether other machines may use it at the same time."""
        return self.url is not None

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
        assert self.url is None, "a database server has no folder"
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
            except (SQLAlchemyError, self._driver_error) as error:
                raise StorageError(_words(error)) from error


def _server_of(where: Path | str | None) -> URL | None:
    """The URL of a database server; None for what is none."""
    if not isinstance(where, str) or "://" not in where:
        return None
    try:
        url = make_url(where)
    except ArgumentError:
        return None  # `_path_of` says what is wrong
    return url.set(drivername="postgresql+psycopg") if url.drivername in _SERVERS else None


def _server_engine(url: URL, threads: int) -> Engine:
    if importlib.util.find_spec("psycopg") is None:
        raise MissingExtraError("A store in PostgreSQL", "postgres")
    options = {"connect_timeout": _CONNECT_S, "options": _SERVER_OPTIONS, "application_name": "ostro"}
    # A connection that the server closed is replaced before it is used.
    return create_engine(
        url, pool_size=threads, max_overflow=threads, pool_pre_ping=True, pool_timeout=_BUSY_S, connect_args=options
    )


def _path_of(where: Path | str | None, servers: bool) -> Path | None:
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
            f"The store {shown} cannot be used: only SQLite is supported, as a path or as sqlite:///PATH"
            f"{', and PostgreSQL, as postgresql://USER@HOST/NAME' if servers else ''}.",
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


def _words(error: Exception) -> str:
    said = str(error.orig if isinstance(error, DBAPIError) else error)
    if "locked" in said or "busy" in said:
        return f"The store was held by another process for over {_BUSY_S:g} s. Try again."
    if "full" in said:
        return "The disk of the store is full. Make room and try again."
    return f"The store failed: {said}."
