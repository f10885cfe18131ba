"""Who owes what: calls are reserved before they run, and settled when they are over, each in a transaction.

One thread writes. What is asked of it while a transaction runs goes into the next one together, so the more calls
there are, the fewer transactions each costs. A key's row is locked while it is judged, so that limits and budgets hold
for all replicas that share a database, to the call and the micro-dollar.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, bindparam, delete, insert, select, text, update

from ostro.core.errors import AuthenticationError, OstroError, StorageError
from ostro.core.ids import new_id
from ostro.core.money import usd
from ostro.storage.accounts import Account, Hold, Room, StoredAccount
from ostro.storage.database import Database
from ostro.storage.prepared import Prepared
from ostro.storage.schema import api_keys, calls, replicas

log = logging.getLogger("ostro.storage")

_MOST_TOGETHER = 512
# A replica that has not said for so long that it lives does not. It says so every third of that.
LEASE_S = 15.0
_RETRY_S = 0.5


class Bill(msgspec.Struct, frozen=True, kw_only=True):
    """What a call has come to. charge: micro-dollars, of which no more is taken than was held."""

    call_id: str
    key_id: str
    charge: int
    prompt_tokens: int
    completion_tokens: int
    node: str | None
    outcome: str = "ok"


class _Mark(msgspec.Struct, frozen=True):
    bill: Bill


_Asked = Hold | Bill | _Mark
_Answer = Room | OstroError | None


_READ_ACCOUNT = Prepared(
    select(
        api_keys.c.revoked_at,
        api_keys.c.expires_at,
        api_keys.c.budget,
        api_keys.c.spent,
        api_keys.c.reserved,
        api_keys.c.running,
        api_keys.c.recent,
    )
    .where(api_keys.c.id == bindparam("key"))
    .with_for_update()
)
_SET_ACCOUNT = Prepared(
    update(api_keys).where(api_keys.c.id == bindparam("key")), ["spent", "reserved", "running", "recent"]
)
_CALL = select(
    calls.c.id, calls.c.key_id, calls.c.state, calls.c.reserved, calls.c.reserved_tokens, calls.c.charge,
    calls.c.prompt_tokens, calls.c.completion_tokens, calls.c.started_at,
)  # fmt: skip
_READ_CALL = Prepared(
    select(calls.c.state, calls.c.reserved, calls.c.reserved_tokens, calls.c.charge, calls.c.started_at).where(
        calls.c.id == bindparam("call")
    )
)
_OPEN_CALL = Prepared(
    insert(calls),
    ["id", "key_id", "tenant", "model", "endpoint", "replica", "state", "reserved", "reserved_tokens", "charge",
     "prompt_tokens", "completion_tokens", "started_at"],
)  # fmt: skip
_COUNTED = ["charge", "prompt_tokens", "completion_tokens", "node"]
_MARK_CALL = Prepared(update(calls).where(calls.c.id == bindparam("call"), calls.c.state == "open"), _COUNTED)
_SETTLE_CALL = Prepared(
    update(calls).where(calls.c.id == bindparam("call")), [*_COUNTED, "state", "outcome", "ended_at"]
)


class _OpenCall(NamedTuple):
    """What is read of a call that is to be settled."""

    state: str
    reserved: int
    reserved_tokens: int
    charge: int
    started_at: float


class Ledger:
    """One replica's. name: that of all its lives; what an earlier one left open is settled when this one starts.

    Use it in one event loop. `start` before, `close` after.
    """

    def __init__(self, database: Database, name: str) -> None:
        self.database = database
        self.name = name
        self.replica = new_id("replica")
        self._asked: queue.SimpleQueue[tuple[_Asked, asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._beating: asyncio.Task[None] | None = None
        self._clock = _Clock()

    async def start(self) -> None:
        """Say that this replica lives, and settle what its earlier lives left open. Raises StorageError."""
        self._loop = asyncio.get_running_loop()
        count = await self.database.write(self._enter)
        if count:
            log.warning("%d calls that an earlier run left open were charged as of their last checkpoints.", count)
        self._thread = threading.Thread(target=self._write, name="ostro-ledger", daemon=True)
        self._thread.start()
        self._beating = asyncio.create_task(self._beat(), name="ledger's lease")

    async def close(self) -> None:
        """Wait for what was asked to be written, where the store takes it."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        if self._thread is not None:
            self._asked.put(None)
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
            self._thread = None

    @property
    def waiting(self) -> int:
        """What has been asked and is not being written yet."""
        return self._asked.qsize()

    async def reserve(self, hold: Hold) -> Room:
        """Raises NoCreditError, RateLimitError, AuthenticationError for a key that is gone, StorageError."""
        answer = await self._ask(hold)
        assert isinstance(answer, Room)
        return answer

    def mark(self, bill: Bill) -> asyncio.Future[None]:
        """A checkpoint: should this process die, the call is charged so much."""
        return self._ask(_Mark(bill))

    def settle(self, bill: Bill) -> asyncio.Future[None]:
        """The call is over. Done when it is written, which is tried until the store takes it."""
        return self._ask(bill)

    def _ask(self, asked: _Asked) -> asyncio.Future[Any]:
        assert self._loop is not None, "start() comes first"
        future = self._loop.create_future()
        self._asked.put((asked, future))
        return future

    def _write(self) -> None:
        """The thread. Settlements that the store did not take are tried again with whatever comes next."""
        late: list[tuple[_Asked, asyncio.Future[Any]]] = []
        while True:
            batch, is_last = late + self._next(bool(late)), False
            if batch and batch[-1] is None:
                batch, is_last = batch[:-1], True
            work = [one for one in batch if one is not None]
            late = self._run(work)
            if is_last:
                if late:
                    log.error(
                        "%d settlements were not written; they are made when this replica starts again.", len(late)
                    )
                return

    def _next(self, is_retry: bool) -> list[tuple[_Asked, asyncio.Future[Any]] | None]:
        found: list[tuple[_Asked, asyncio.Future[Any]] | None] = []
        try:
            found.append(self._asked.get(timeout=_RETRY_S if is_retry else None))
            while len(found) < _MOST_TOGETHER and found[-1] is not None:
                found.append(self._asked.get_nowait())
        except queue.Empty:
            pass
        return found

    def _run(self, work: list[tuple[_Asked, asyncio.Future[Any]]]) -> list[tuple[_Asked, asyncio.Future[Any]]]:
        """Returns what is to be tried again."""
        if not work:
            return []
        try:
            answers = self.database.write_now(lambda connection: self._apply(connection, [one for one, _ in work]))
        except StorageError as error:
            # Nobody who asked to settle is told: it is done as soon as it can be.
            self._tell([(future, error) for asked, future in work if not isinstance(asked, Bill)])
            return [one for one in work if isinstance(one[0], Bill)]
        except Exception as error:  # a defect of ours: it ends what it is in, and nothing else
            if len(work) > 1:
                return [left for one in work for left in self._run([one])]
            log.exception("The ledger failed on %r", work[0][0])
            self._tell([(work[0][1], StorageError(f"The ledger failed: {error}."))])
            return []
        self._tell([(future, answer) for (_, future), answer in zip(work, answers, strict=True)])
        return []

    def _tell(self, answers: Sequence[tuple[asyncio.Future[Any], _Answer]]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(_resolve, answers)
        except RuntimeError:
            log.debug("the loop is closed; nobody waits for these answers")

    def _apply(self, connection: Connection, asked: Sequence[_Asked]) -> list[_Answer]:
        now = self._now(connection)
        bills = [one for one in asked if isinstance(one, Bill)]
        holds = [one for one in asked if isinstance(one, Hold)]
        marks = [one.bill for one in asked if isinstance(one, _Mark)]
        accounts = self._lock({*(one.key_id for one in bills), *(one.key_id for one in holds)}, connection, now)
        if marks:
            _MARK_CALL.run(connection, [_counted(bill) for bill in marks])
        # What is over is settled before what begins is judged: it may be what there is no room for.
        if bills:
            self._settle(connection, bills, accounts, now)
        answers: list[_Answer] = []
        opened: list[dict[str, Any]] = []
        for one in asked:
            answer: _Answer = None
            if isinstance(one, Hold):
                account = accounts.get(one.key_id)
                answer = AuthenticationError("The API key is gone.") if account is None else account.reserve(one, now)
                if isinstance(answer, Room):
                    opened.append(self._opened(one, now))
            answers.append(answer)
        if opened:
            _OPEN_CALL.run(connection, opened)
        if accounts:
            _SET_ACCOUNT.run(connection, [{"key": key, **one.values()} for key, one in accounts.items()])
        return answers

    def _lock(self, ids: Iterable[str], connection: Connection, now: float) -> dict[str, Account]:
        found = {}
        # In the order of their ids: replicas that lock the same keys wait for each other, and not in a circle.
        for key in sorted(ids):
            for row in _READ_ACCOUNT.rows(connection, {"key": key}):
                found[key] = Account(StoredAccount(*row), now)
        return found

    def _settle(
        self, connection: Connection, bills: Sequence[Bill], accounts: Mapping[str, Account], now: float
    ) -> None:
        settled: dict[str, dict[str, Any]] = {}
        # Of several for one call the last one counts: it may take back what was not written in time.
        for bill in {bill.call_id: bill for bill in bills}.values():
            rows = _READ_CALL.rows(connection, {"call": bill.call_id})
            account = accounts.get(bill.key_id)
            if not rows or account is None:
                continue
            call = _OpenCall(*rows[0])
            if call.state == "settled":
                continue
            charge = min(bill.charge, call.reserved)
            if charge < bill.charge:
                log.warning("Call %s came to more than was held: $%s.", bill.call_id, usd(bill.charge))
            if call.state == "open":
                account.release(call.reserved, charge)
            else:  # It was taken for lost, and charged as of its checkpoint.
                account.spent += charge - call.charge
            used = bill.prompt_tokens + bill.completion_tokens
            account.recent.correct(call.started_at, used - call.reserved_tokens)
            counted = {**_counted(bill), "charge": charge}
            settled[bill.call_id] = {**counted, "state": "settled", "outcome": bill.outcome, "ended_at": now}
        if settled:
            _SETTLE_CALL.run(connection, list(settled.values()))

    def _opened(self, hold: Hold, now: float) -> dict[str, Any]:
        return {
            "id": hold.call_id,
            "key_id": hold.key_id,
            "tenant": hold.tenant,
            "model": hold.model,
            "endpoint": hold.endpoint,
            "replica": self.replica,
            "state": "open",
            "reserved": hold.amount,
            "reserved_tokens": hold.tokens,
            "charge": 0,
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "started_at": now,
        }

    def _now(self, connection: Connection) -> float:
        """Replicas go by the clock of what they share; one alone by its own, which does not jump while it runs."""
        if not self.database.is_server:
            return self._clock.now()
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())

    def _enter(self, connection: Connection) -> int:
        now = self._now(connection)
        earlier = [row.id for row in connection.execute(select(replicas.c.id).where(replicas.c.name == self.name))]
        count = self._recover(connection, earlier, now)
        connection.execute(insert(replicas).values(id=self.replica, name=self.name, seen_at=now))
        return count

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            try:
                count = await self.database.write(self._renew)
            except StorageError as error:
                log.warning("The ledger could not renew its lease: %s", error.message)
                continue
            if count:
                log.warning("%d calls of replicas that are gone were charged as of their last checkpoints.", count)

    def _renew(self, connection: Connection) -> int:
        now = self._now(connection)
        seen = update(replicas).where(replicas.c.id == self.replica).values(seen_at=now)
        if not connection.execute(seen).rowcount:
            connection.execute(insert(replicas).values(id=self.replica, name=self.name, seen_at=now))
        gone = select(replicas.c.id).where(replicas.c.seen_at < now - LEASE_S, replicas.c.id != self.replica)
        return self._recover(connection, [row.id for row in connection.execute(gone)], now)

    def _recover(self, connection: Connection, gone: Sequence[str], now: float) -> int:
        """Charge what replicas left open, and forget them. Returns how many calls."""
        if not gone:
            return 0
        left = (calls.c.replica.in_(gone)) & (calls.c.state == "open")
        keys = {row.key_id for row in connection.execute(select(calls.c.key_id).where(left).distinct())}
        accounts = self._lock(keys, connection, now)
        # Read only now: whoever held the keys may have settled some of them meanwhile.
        rows = connection.execute(_CALL.where(left)).mappings().all()
        ended = {"state": "recovered", "outcome": "lost", "ended_at": now}
        for row in rows:
            account = accounts.get(row["key_id"])
            if account is not None:
                account.release(row["reserved"], min(row["charge"], row["reserved"]))
                used = row["prompt_tokens"] + row["completion_tokens"]
                account.recent.correct(row["started_at"], used - row["reserved_tokens"])
        if rows:
            connection.execute(update(calls).where(calls.c.id.in_([row["id"] for row in rows])).values(ended))
        if accounts:
            _SET_ACCOUNT.run(connection, [{"key": key, **one.values()} for key, one in accounts.items()])
        connection.execute(delete(replicas).where(replicas.c.id.in_(gone)))
        return len(rows)


class _Clock:
    """The time of day when this was made, and what has passed since: it does not jump."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._steady = steady
        self._offset = wall() - steady()

    def now(self) -> float:
        return self._offset + self._steady()


def _counted(bill: Bill) -> dict[str, Any]:
    return {
        "call": bill.call_id,
        "charge": bill.charge,
        "prompt_tokens": bill.prompt_tokens,
        "completion_tokens": bill.completion_tokens,
        "node": bill.node,
    }


def _resolve(answers: Sequence[tuple[asyncio.Future[Any], _Answer]]) -> None:
    for future, answer in answers:
        if future.done():
            continue  # whoever asked has left
        if isinstance(answer, OstroError):
            future.set_exception(answer)
        else:
            future.set_result(answer)
