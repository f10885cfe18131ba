"""Runs batch jobs beside what people send themselves, on one server of possibly many with the same store."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

from fastapi import FastAPI

from ostro.core.errors import OstroError, StorageError
from ostro.core.ids import new_id
from ostro.server.batch.lines import RequestLine, Spool, read_requests
from ostro.server.batch.results import finish, line_of, refused_line
from ostro.server.batch.retries import Caller
from ostro.storage.database import Database
from ostro.storage.files import FileStore
from ostro.storage.jobs import LEASE_S, Job, JobStore, LeaseLostError, Status

log = logging.getLogger("ostro.server")

IN_FLIGHT = 8
_JOBS = 4
_POLL_S = 1.0
_RENEW_S = 1.0
_SWEEP_S = 300.0
_READ_AHEAD = 32

assert _RENEW_S < LEASE_S / 4, "a lease must survive a slow moment"


class BatchRunner:
    """Claims jobs from the store and runs their requests, `in_flight` at a time over all of them.

    checking: whoever reads through a job's input holds it; like finishing, it takes one of the store's few threads.
    What has been recorded of a job survives the server; whoever claims it next does the rest.
    """

    def __init__(self, app: FastAPI, database: Database, *, in_flight: int = IN_FLIGHT) -> None:
        self.jobs = JobStore(database)
        self.files = FileStore(database)
        self.spool = Spool(database)
        self.checking = asyncio.Lock()
        self.in_flight = in_flight
        self._database = database
        self._caller = Caller(app)
        self._owner = new_id("server")
        self._news = asyncio.Event()
        self._finishing = asyncio.Lock()  # one at a time: others need the store's threads
        self._slots = asyncio.Semaphore(in_flight)
        self._running: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._watching = asyncio.create_task(self._watch())
        self._sweeping = asyncio.create_task(self._sweep())

    def wake(self) -> None:
        """There may be a new job."""
        self._news.set()

    async def close(self) -> None:
        """Stop in the middle and give the leases back. Requests in flight are repeated by whoever goes on."""
        await _ended(*(task for task in (self._watching, self._sweeping, *self._running) if task is not None))

    async def _watch(self) -> None:
        while True:
            self._news.clear()
            try:
                while len(self._running) < _JOBS and (job := await self.jobs.claim(self._owner)) is not None:
                    task = asyncio.create_task(self._run(job))
                    self._running.add(task)
                    task.add_done_callback(self._forget)
            except StorageError as error:
                log.warning("Batch jobs wait: %s", error.message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await self._news.wait()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._news.set()

    async def _run(self, job: Job) -> None:
        cancelled = asyncio.Event()
        keeping = asyncio.create_task(self._keep_lease(job, cancelled))
        try:
            status, error = await self._outcome(job, keeping, cancelled)
            async with self._finishing:
                await self._database.off_loop(
                    lambda: finish(self.jobs, self.files, self.spool, job, self._owner, status, error=error)
                )
        except LeaseLostError:
            log.warning("Another server goes on with the batch job %s.", job.id)
        except StorageError as error:
            log.warning("The batch job %s waits: %s", job.id, error.message)  # till the lease is over
        except asyncio.CancelledError:
            with contextlib.suppress(StorageError):
                await self.jobs.release(job.id, self._owner)
            raise
        finally:
            await _ended(keeping)

    async def _keep_lease(self, job: Job, cancelled: asyncio.Event) -> None:
        """Till it is cancelled; sets the event when the job's end is asked for. Raises LeaseLostError."""
        while True:
            if await self.jobs.renew(job.id, self._owner) == "cancelling":
                cancelled.set()
            await asyncio.sleep(_RENEW_S)

    async def _outcome(
        self, job: Job, keeping: asyncio.Task[None], cancelled: asyncio.Event
    ) -> tuple[Status, str | None]:
        """How the job ended, and why where it failed. Raises LeaseLostError, StorageError."""
        if job.status == "cancelling":
            return "cancelled", None
        working = asyncio.create_task(self._work(job))
        asked = asyncio.create_task(cancelled.wait())
        try:
            left = max(0.0, job.deadline - time.time())
            done, _ = await asyncio.wait({keeping, working, asked}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if keeping in done:
                keeping.result()
            if working in done:
                working.result()
                return "succeeded", None
            return ("cancelled" if asked in done else "expired"), None
        except (LeaseLostError, StorageError):
            raise
        except Exception:  # whatever it is, whoever claims the job next would meet it again, for ever
            log.exception("the batch job %s failed", job.id)
            return "failed", "The server failed on this job. Its log says why."
        finally:
            await _ended(working, asked)

    async def _work(self, job: Job) -> None:
        """Every request of the job that has not been done. Raises the first error that is not a request's own."""
        done = await self.jobs.finished_numbers(job.id)
        todo = (
            (number, request)
            for number, request in enumerate(read_requests(self.spool.paths(job.id)))
            if number not in done
        )
        try:
            async with asyncio.TaskGroup() as group:
                while chunk := await self._database.off_loop(_taker(todo)):
                    for number, request in chunk:
                        await self._slots.acquire()
                        task = group.create_task(self._one(job, number, request))
                        task.add_done_callback(lambda _: self._slots.release())
        except BaseExceptionGroup as errors:  # a task group wraps even a single error
            raise errors.exceptions[0] from None

    async def _one(self, job: Job, number: int, request: RequestLine) -> None:
        fields = request.fields()
        if fields.get("stream"):
            line = refused_line(number, request, "stream_not_possible", "A request of a batch cannot be streamed.")
        else:
            request_id = f"{job.id}-{number}"
            answer = await self._caller.answer(job.endpoint, fields, job.model, request_id, job.owner)
            line = line_of(number, request, answer)
        await self.jobs.record(job.id, self._owner, line)

    async def _sweep(self) -> None:
        while True:
            try:
                await self.files.sweep()
                await self._database.off_loop(lambda: self.spool.sweep(self.jobs.unfinished_now()))
            except (OstroError, OSError) as error:
                log.warning("The store was not swept: %s", error)
            await asyncio.sleep(_SWEEP_S)


async def _ended(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _taker(todo: Iterator[tuple[int, RequestLine]]) -> Callable[[], list[tuple[int, RequestLine]]]:
    """Reads a few requests ahead, on a thread."""
    return lambda: list(itertools.islice(todo, _READ_AHEAD))
