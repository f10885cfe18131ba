"""Batch jobs: their rows, the leases by which one server at a time runs one, and what is done of them.

A lease is a server's name and a time on the job's row. Whoever runs a job renews it; when a server dies the time
passes and another one goes on. Every line that is recorded names the lease's owner in the same transaction, so that
a server that was only slow cannot write into a job that is no longer its own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from sqlalchemy import (
    Connection,
    Row,
    Select,
    String,
    case,
    cast,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.sql.expression import ColumnElement

from ostro.core.errors import OstroError
from ostro.storage.database import Database
from ostro.storage.files import FileRecord, FileStore
from ostro.storage.schema import batch_jobs, batch_lines

LEASE_S = 10.0

Status = Literal["queued", "running", "cancelling", "succeeded", "failed", "expired", "cancelled"]
Face = Literal["mistral", "openai"]

UNFINISHED: tuple[Status, ...] = ("queued", "running", "cancelling")

_COUNTED = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")


class LeaseLostError(OstroError):
    """Another server runs the job by now, or it is over."""

    code = "lease_lost"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job. face: the API it was made by. window: how long it may take, as its maker said it.

    total, succeeded, failed: requests. deadline: when it times out. output_expires_s: how long its files stay.
    error: why it failed as a whole. owner: whoever may find it, and the files that it writes.
    """

    id: str
    face: Face
    endpoint: str
    model: str | None = None
    input_files: list[str]
    metadata: dict[str, Any] | None = None
    window: str
    status: Status = "queued"
    created_at: float
    deadline: float
    started_at: float | None = None
    cancelling_at: float | None = None
    finished_at: float | None = None
    total: int
    succeeded: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    output_expires_s: float | None = None
    error: str | None = None
    output_file: str | None = None
    error_file: str | None = None
    lease_owner: str | None = None
    lease_until: float | None = None
    owner: str = ""

    @property
    def finished(self) -> bool:
        return self.status not in UNFINISHED


@dataclass(frozen=True, kw_only=True)
class Line:
    """A finished request of a job. number counts from 0; text is its line in the output or error file.

    tokens: what it used, by `Job`'s field names.
    """

    number: int
    succeeded: bool
    text: str
    tokens: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class JobQuery:
    """Which jobs of an owner, newest first unless `ascending`. metadata: pairs that a job must have, as text."""

    owner: str
    statuses: Sequence[Status] = ()
    model: str | None = None
    metadata: Mapping[str, str] | None = None
    created_after: float | None = None
    ascending: bool = False
    after: str | None = None
    offset: int = 0
    limit: int = 100


class JobStore:
    """Jobs in a database. For methods that run a job, owner is the server's name in its lease, and no `Job.owner`."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def add(self, job: Job) -> None:
        await self.database.write(lambda connection: connection.execute(insert(batch_jobs).values(asdict(job))))

    async def find(self, job_id: str, owner: str) -> Job | None:
        """None for an unknown one, and for somebody else's."""
        job = await self.database.read(lambda connection: _find(connection, job_id))
        return None if job is None or job.owner != owner else job

    async def page(self, query: JobQuery) -> tuple[list[Job], int]:
        """One page, and how many there are on all pages."""

        def work(connection: Connection) -> tuple[list[Job], int]:
            matching = _matching(query)
            total = connection.execute(select(func.count()).select_from(matching.subquery())).scalar_one()
            order = (batch_jobs.c.created_at, batch_jobs.c.id)
            page = matching.order_by(*(order if query.ascending else [column.desc() for column in order]))
            if query.after is not None:
                last = _find(connection, query.after)
                if last is None or last.owner != query.owner:
                    return [], total
                page = page.where(
                    or_(
                        batch_jobs.c.created_at < last.created_at,
                        (batch_jobs.c.created_at == last.created_at) & (batch_jobs.c.id < last.id),
                    )
                )
            rows = connection.execute(page.offset(query.offset).limit(query.limit)).all()
            return [_job(row) for row in rows], total

        return await self.database.read(work)

    async def cancel(self, job_id: str) -> Job | None:
        """Ask for an end; a job that nobody runs yet ends here. Returns it as it is then; a finished one as it was."""

        def work(connection: Connection) -> Job | None:
            job = _find(connection, job_id)
            if job is None or job.finished or job.status == "cancelling":
                return job
            now = time.time()
            job = replace(job, status="cancelling", cancelling_at=now)
            if job.lease_owner is None and job.started_at is None:
                job = replace(job, status="cancelled", finished_at=now)
            changed = {"status": job.status, "cancelling_at": now, "finished_at": job.finished_at}
            connection.execute(update(batch_jobs).where(batch_jobs.c.id == job_id).values(changed))
            return job

        return await self.database.write(work)

    async def delete(self, job_id: str) -> None:
        """A finished job; its files stay."""
        mine = (batch_jobs.c.id == job_id) & batch_jobs.c.status.not_in(UNFINISHED)
        await self.database.write(lambda connection: connection.execute(delete(batch_jobs).where(mine)))

    async def claim(self, owner: str) -> Job | None:
        """The oldest unfinished job that no living server runs, now leased to `owner`; those to be ended first."""

        def work(connection: Connection) -> Job | None:
            now = time.time()
            free = or_(batch_jobs.c.lease_until.is_(None), batch_jobs.c.lease_until < now)
            waiting = select(batch_jobs).where(batch_jobs.c.status.in_(UNFINISHED), free)
            first = case((batch_jobs.c.status == "cancelling", 0), else_=1)
            row = connection.execute(waiting.order_by(first, batch_jobs.c.created_at).limit(1)).first()
            if row is None:
                return None
            job = _job(row)
            lease = {"lease_owner": owner, "lease_until": now + LEASE_S}
            started = {"started_at": job.started_at or now}
            running = {"status": "running"} if job.status == "queued" else {}
            connection.execute(update(batch_jobs).where(batch_jobs.c.id == job.id).values(lease | started | running))
            return _find(connection, job.id)

        if not await self.database.read(_any_free):
            return None  # most of the time: no need to make writers wait
        return await self.database.write(work)

    async def renew(self, job_id: str, owner: str) -> Status:
        """Keep a lease; returns the job's status, "cancelling" once its end was asked for. Raises LeaseLostError."""

        def work(connection: Connection) -> Status:
            lease = {"lease_until": time.time() + LEASE_S}
            connection.execute(update(batch_jobs).where(batch_jobs.c.id == job_id).values(lease))
            return _owned(connection, job_id, owner).status

        return await self.database.write(work)

    async def release(self, job_id: str, owner: str) -> None:
        """Give a lease back, so that another server goes on at once."""
        mine = (batch_jobs.c.id == job_id) & (batch_jobs.c.lease_owner == owner)
        free = update(batch_jobs).where(mine).values(lease_owner=None, lease_until=None)
        await self.database.write(lambda connection: connection.execute(free))

    async def finished_numbers(self, job_id: str) -> set[int]:
        """Requests of an unfinished job that need not be done again."""
        numbers = select(batch_lines.c.number).where(batch_lines.c.job_id == job_id)
        return await self.database.read(lambda connection: set(connection.execute(numbers).scalars()))

    async def record(self, job_id: str, owner: str, line: Line) -> None:
        """Keep a finished request: after this it is never done again. Raises LeaseLostError."""

        def work(connection: Connection) -> None:
            job = _owned(connection, job_id, owner)
            row = {"job_id": job_id, "number": line.number, "succeeded": int(line.succeeded), "line": line.text}
            connection.execute(insert(batch_lines).values(row))
            counts = {name: getattr(job, name) + line.tokens.get(name, 0) for name in _COUNTED}
            counts |= {"succeeded": job.succeeded + line.succeeded, "failed": job.failed + (not line.succeeded)}
            connection.execute(update(batch_jobs).where(batch_jobs.c.id == job_id).values(counts))

        await self.database.write(work)

    def lines_now(self, job_id: str, after: int, limit: int) -> list[Line]:
        """Finished requests in order, with numbers above `after`. Blocking."""
        found = (
            select(batch_lines)
            .where(batch_lines.c.job_id == job_id, batch_lines.c.number > after)
            .order_by(batch_lines.c.number)
            .limit(limit)
        )
        rows = self.database.read_now(lambda connection: connection.execute(found).all())
        return [Line(number=row.number, succeeded=bool(row.succeeded), text=row.line, tokens={}) for row in rows]

    def finish_now(
        self,
        job_id: str,
        owner: str,
        status: Status,
        *,
        output: FileRecord | None = None,
        errors: FileRecord | None = None,
        error: str | None = None,
    ) -> None:
        """End a job with its files, at once or not at all. Blocking. Raises LeaseLostError."""

        def work(connection: Connection) -> None:
            _owned(connection, job_id, owner)
            for record in (output, errors):
                if record is not None:
                    FileStore.insert(connection, record)
            ended = {
                "status": status,
                "finished_at": time.time(),
                "error": error,
                "output_file": output.id if output else None,
                "error_file": errors.id if errors else None,
                "lease_owner": None,
                "lease_until": None,
            }
            connection.execute(update(batch_jobs).where(batch_jobs.c.id == job_id).values(ended))
            connection.execute(delete(batch_lines).where(batch_lines.c.job_id == job_id))

        self.database.write_now(work)

    def unfinished_now(self) -> set[str]:
        """Ids of all jobs that are not over. Blocking."""
        found = select(batch_jobs.c.id).where(batch_jobs.c.status.in_(UNFINISHED))
        return set(self.database.read_now(lambda connection: connection.execute(found).scalars().all()))


def _any_free(connection: Connection) -> bool:
    free = or_(batch_jobs.c.lease_until.is_(None), batch_jobs.c.lease_until < time.time())
    found = exists().where(batch_jobs.c.status.in_(UNFINISHED), free)
    return bool(connection.execute(select(found)).scalar())


def _owned(connection: Connection, job_id: str, owner: str) -> Job:
    job = _find(connection, job_id)
    if job is None or job.lease_owner != owner or job.finished:
        raise LeaseLostError(f"The job {job_id} is no longer this server's.")
    return job


def _matching(query: JobQuery) -> Select[Any]:
    found = select(batch_jobs).where(batch_jobs.c.owner == query.owner)
    if query.statuses:
        found = found.where(batch_jobs.c.status.in_(query.statuses))
    if query.model is not None:
        found = found.where(batch_jobs.c.model == query.model)
    if query.created_after is not None:
        found = found.where(batch_jobs.c.created_at > query.created_after)
    for key, value in (query.metadata or {}).items():
        found = found.where(_has_pair(key, value))
    return found


def _has_pair(key: str, value: str) -> ColumnElement[bool]:
    """Compared pair by pair: a key inside of a JSON path would have to be quoted. Numbers are compared as they are
    written, true and false by their names, as Python and JSON have them."""
    whole = case((func.json_valid(batch_jobs.c.metadata) == 1, batch_jobs.c.metadata), else_="{}")
    pairs = func.json_each(whole).table_valued("key", "value", "type")
    as_text = pairs.c.type.in_(("text", "integer", "real")) & (cast(pairs.c.value, String) == value)
    same = (pairs.c.key == key) & (as_text | (pairs.c.type == value.lower()))
    return select(true()).select_from(pairs).where(same).correlate(batch_jobs).exists()


def _find(connection: Connection, job_id: str) -> Job | None:
    row = connection.execute(select(batch_jobs).where(batch_jobs.c.id == job_id)).first()
    return None if row is None else _job(row)


def _job(row: Row[Any]) -> Job:
    return Job(**row._mapping)
