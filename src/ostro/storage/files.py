"""Files of the store: a row each, and the bytes in a folder under the row's id."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import Connection, Row, Select, delete, func, insert, or_, select

from ostro.core.errors import StorageError
from ostro.core.ids import new_id
from ostro.storage.database import Database
from ostro.storage.schema import files

# A crash may leave bytes without a row; after this long nobody is still writing them.
_ORPHAN_S = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """One file. Times in seconds since the epoch; num_lines counts lines that are not blank.

    owner: whoever may find it.
    """

    id: str
    created_at: float
    expires_at: float | None = None
    filename: str
    purpose: str
    sample_type: str
    source: str
    mimetype: str | None = None
    bytes: int
    num_lines: int | None = None
    sha256: str
    owner: str = ""

    @property
    def expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= time.time()


@dataclass(frozen=True, kw_only=True)
class FileQuery:
    """Which files of an owner, newest first unless `ascending`. after: the id of the last file of the page before."""

    owner: str
    purpose: str | None = None
    sample_types: Sequence[str] = ()
    sources: Sequence[str] = ()
    mimetypes: Sequence[str] = ()
    search: str | None = None
    ascending: bool = False
    after: str | None = None
    offset: int = 0
    limit: int = 100


class FileWriter:
    """Bytes on their way to becoming a file. Blocking: use it on a thread. `discard` after anything goes wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = 0
        self.num_lines = 0
        self._digest = hashlib.sha256()
        self._within_line = False
        self._file: BinaryIO = path.open("xb")

    def write(self, data: bytes) -> None:
        """Raises StorageError where the disk does not take it."""
        if not data:
            return
        try:
            self._file.write(data)
        except OSError as error:
            raise _failed(error) from error
        self._digest.update(data)
        self.bytes += len(data)
        self._count(data)

    def _count(self, data: bytes) -> None:
        pieces = data.split(b"\n")
        for piece in pieces[:-1]:
            self.num_lines += self._within_line or bool(piece.strip())
            self._within_line = False
        self._within_line = self._within_line or bool(pieces[-1].strip())

    def close(self) -> str:
        """The bytes are on the disk; returns their SHA-256."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise _failed(error) from error
        self.num_lines += self._within_line
        self._within_line = False
        return self._digest.hexdigest()

    def discard(self) -> None:
        """Forget the bytes, unless they have become a file."""
        with contextlib.suppress(OSError):  # closing flushes, which fails again on a full disk
            self._file.close()
        self.path.unlink(missing_ok=True)


class FileStore:
    """Methods named `*_now` block, for work that is on a thread already."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def writer(self) -> FileWriter:
        """A new file's bytes. Blocking."""
        try:
            return FileWriter(self.database.folder("incoming") / new_id("part"))
        except OSError as error:
            raise _failed(error) from error

    def place_now(self, writer: FileWriter, **described: Any) -> FileRecord:
        """Close a writer and put its bytes where `path` finds them; the row is `insert`'s.

        described: the fields of the record that the bytes do not tell.
        """
        digest = writer.close()
        record = FileRecord(
            id=new_id("file"),
            created_at=time.time(),
            bytes=writer.bytes,
            num_lines=writer.num_lines,
            sha256=digest,
            **described,
        )
        try:
            writer.path.replace(self.path(record))
        except OSError as error:
            raise _failed(error) from error
        return record

    async def add(self, writer: FileWriter, **described: Any) -> FileRecord:
        """`place_now`, and the row."""

        def work() -> FileRecord:
            record = self.place_now(writer, **described)
            try:
                self.database.write_now(lambda connection: self.insert(connection, record))
            except BaseException:  # cancelled or failed: no half a file stays
                self.path(record).unlink(missing_ok=True)
                raise
            return record

        return await self.database.off_loop(work)

    @staticmethod
    def insert(connection: Connection, record: FileRecord) -> None:
        connection.execute(insert(files).values(asdict(record)))

    def path(self, record: FileRecord) -> Path:
        """Where the bytes are. The name is the store's own id, never a client's word."""
        return self.database.folder("files") / record.id

    async def find(self, file_id: str, owner: str) -> FileRecord | None:
        """None for an unknown or expired one, and for somebody else's."""
        record = await self.database.read(lambda connection: _find(connection, file_id, owner))
        return None if record is None or record.expired else record

    async def page(self, query: FileQuery) -> tuple[list[FileRecord], int]:
        """One page, and how many there are on all pages."""

        def work(connection: Connection) -> tuple[list[FileRecord], int]:
            matching = _matching(query)
            total = connection.execute(select(func.count()).select_from(matching.subquery())).scalar_one()
            order = (files.c.created_at, files.c.id)
            page = matching.order_by(*(order if query.ascending else [column.desc() for column in order]))
            if query.after is not None:
                last = _find(connection, query.after, query.owner)
                if last is None:
                    return [], total
                here, there = (files.c.created_at, files.c.id), (last.created_at, last.id)
                page = page.where(_beyond(here, there, query.ascending))
            rows = connection.execute(page.offset(query.offset).limit(query.limit)).all()
            return [_record(row) for row in rows], total

        return await self.database.read(work)

    async def delete(self, record: FileRecord) -> None:
        def work() -> None:
            self.database.write_now(lambda connection: connection.execute(delete(files).where(files.c.id == record.id)))
            self.path(record).unlink(missing_ok=True)

        await self.database.off_loop(work)

    async def sweep(self) -> None:
        """Drop what has expired, and bytes that a crash left without a row."""
        await self.database.off_loop(self._sweep)

    def _sweep(self) -> None:
        now = time.time()

        def expired(connection: Connection) -> list[FileRecord]:
            gone = files.c.expires_at <= now
            rows = connection.execute(select(files).where(gone)).all()
            connection.execute(delete(files).where(gone))
            return [_record(row) for row in rows]

        for record in self.database.write_now(expired):
            self.path(record).unlink(missing_ok=True)
        known = set(self.database.read_now(lambda connection: connection.execute(select(files.c.id)).scalars().all()))
        for name in ("incoming", "files"):
            for path in self.database.folder(name).iterdir():
                with contextlib.suppress(FileNotFoundError):  # another server sweeps the same folder
                    if path.name not in known and path.stat().st_mtime < now - _ORPHAN_S:
                        path.unlink()


def _matching(query: FileQuery) -> Select[Any]:
    there = or_(files.c.expires_at.is_(None), files.c.expires_at > time.time())
    found = select(files).where(files.c.owner == query.owner, there)
    if query.purpose is not None:
        found = found.where(files.c.purpose == query.purpose)
    for column, wanted in (
        (files.c.sample_type, query.sample_types),
        (files.c.source, query.sources),
        (files.c.mimetype, query.mimetypes),
    ):
        if wanted:
            found = found.where(column.in_(wanted))
    if query.search:
        found = found.where(files.c.filename.icontains(query.search, autoescape=True))
    return found


def _beyond(here: tuple[Any, Any], there: tuple[float, str], ascending: bool) -> Any:
    """Rows after `there` in the order of (time, id)."""
    (when, name), (time_there, name_there) = here, there
    if ascending:
        return or_(when > time_there, (when == time_there) & (name > name_there))
    return or_(when < time_there, (when == time_there) & (name < name_there))


def _find(connection: Connection, file_id: str, owner: str) -> FileRecord | None:
    row = connection.execute(select(files).where(files.c.id == file_id, files.c.owner == owner)).first()
    return None if row is None else _record(row)


def _record(row: Row[Any]) -> FileRecord:
    return FileRecord(**row._mapping)


def _failed(error: OSError) -> StorageError:
    return StorageError(f"The store could not write a file: {error.strerror or error}.")
