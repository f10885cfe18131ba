"""Money and limits, on SQLite and on PostgreSQL: exact in races, after deaths, and while the store is away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from postgres_server import PostgresServer
from sqlalchemy import select

from ostro.core.errors import AuthenticationError, OstroError, StorageError
from ostro.core.money import Price, micros, usd
from ostro.gateway import billing
from ostro.storage import Database
from ostro.storage.accounts import Hold, Limits, NoCreditError, RateLimitError
from ostro.storage.keys import Key, NewKey, change_key, create_key, get_key, revoke_key
from ostro.storage.ledger import LEASE_S, Bill, Ledger, _Clock
from ostro.storage.recent import WINDOW_S, Recent
from ostro.storage.schema import calls, replicas

NO_LIMITS = Limits()


@asynccontextmanager
async def ledgers(store: str, count: int = 1) -> AsyncIterator[list[Ledger]]:
    """Replicas that share a store, each with connections of its own."""
    made = [Ledger(Database(store, servers=True), f"replica {number}") for number in range(count)]
    try:
        for one in made:
            await one.start()
        yield made
    finally:
        for one in made:
            await one.close()
            one.database.close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(work())  # type: ignore[arg-type]  # it is a coroutine function


async def make_key(ledger: Ledger, **wanted: Any) -> Key:
    given = {"name": "k", "tenant": "t", "tier": "x", **wanted}
    return (await ledger.database.write(lambda connection: create_key(connection, NewKey(**given))))[1]


async def read_key(ledger: Ledger, key: Key) -> Key:
    found = await ledger.database.read(lambda connection: get_key(connection, key.id))
    assert found is not None
    return found


def hold(key: Key, number: int | str, amount: int = 2000, tokens: int = 10, limits: Limits = NO_LIMITS) -> Hold:
    return Hold(
        call_id=f"{key.id}-{number}", key_id=key.id, tenant="t", model="m", endpoint="/v1/x", amount=amount,
        tokens=tokens, limits=limits,
    )  # fmt: skip


def bill(of: Hold, charge: int, completion: int = 3, outcome: str = "ok") -> Bill:
    return Bill(
        call_id=of.call_id, key_id=of.key_id, charge=charge, prompt_tokens=7, completion_tokens=completion,
        node="n", outcome=outcome,
    )  # fmt: skip


async def charged(ledger: Ledger, key: Key) -> list[tuple[str, int]]:
    query = select(calls.c.state, calls.c.charge).where(calls.c.key_id == key.id)
    rows = await ledger.database.read(lambda connection: connection.execute(query).all())
    return [(row.state, row.charge) for row in rows]


def test_fifty_race_on_one_budget_and_nothing_is_overspent_or_forgotten(store: str) -> None:
    async def work() -> None:
        async with ledgers(store, 2 if store.startswith("postgresql") else 1) as replicas:
            key = await make_key(replicas[0], budget=100 * 2000 + 1999)
            rng = random.Random(0)

            async def one(number: int) -> int:
                ledger = replicas[number % len(replicas)]
                wanted = hold(key, number)
                try:
                    await ledger.reserve(wanted)
                except NoCreditError:
                    return 0
                await asyncio.sleep(rng.random() * 0.01)
                charge = rng.choice([0, 500, 2000])
                await ledger.settle(bill(wanted, charge))
                return charge

            async def client(first: int) -> int:
                return sum([await one(first * 1000 + number) for number in range(12)])

            paid = sum(await asyncio.gather(*(client(number) for number in range(50))))
            after = await read_key(replicas[0], key)
            assert (after.spent, after.reserved, after.running) == (paid, 0, 0)
            assert 100_000 < paid <= 100 * 2000 + 1999
            assert sum(charge for _, charge in await charged(replicas[0], key)) == paid

    run(work)


@pytest.mark.parametrize(
    ("limits", "fits"),
    [
        (Limits(requests_per_minute=7), 7),
        (Limits(tokens_per_minute=55), 5),
        (Limits(concurrency=4), 4),
        (Limits(requests_per_minute=9, tokens_per_minute=65, concurrency=8), 6),
    ],
)
def test_limits_hold_to_the_call_for_all_replicas_together(store: str, limits: Limits, fits: int) -> None:
    async def work() -> None:
        async with ledgers(store, 2 if store.startswith("postgresql") else 1) as replicas:
            key = await make_key(replicas[0])
            asked = [hold(key, number, limits=limits) for number in range(40)]
            found = await asyncio.gather(
                *(replicas[number % len(replicas)].reserve(one) for number, one in enumerate(asked)),
                return_exceptions=True,
            )
            refused = [one for one in found if isinstance(one, RateLimitError)]
            assert len(found) - len(refused) == fits
            assert all(0 < one.retry_after <= WINDOW_S + 1 for one in refused)

    run(work)


def test_tokens_that_were_not_used_are_given_back(store: str) -> None:
    async def work() -> None:
        async with ledgers(store) as (ledger,):
            key, limits = await make_key(ledger), Limits(tokens_per_minute=100)
            first = hold(key, 1, tokens=90, limits=limits)
            assert (await ledger.reserve(first)).tokens_left == 10
            with pytest.raises(RateLimitError):
                await ledger.reserve(hold(key, 2, tokens=20, limits=limits))
            await ledger.settle(bill(first, 0))
            assert (await ledger.reserve(hold(key, 3, tokens=20, limits=limits))).tokens_left == 70

    run(work)


def test_a_request_that_is_larger_than_a_limit_says_so(store: str) -> None:
    async def work() -> None:
        async with ledgers(store) as (ledger,):
            with pytest.raises(RateLimitError, match="ask for fewer"):
                await ledger.reserve(hold(await make_key(ledger), 1, tokens=11, limits=Limits(tokens_per_minute=10)))

    run(work)


def test_a_key_that_is_gone_pays_nothing(store: str) -> None:
    async def work() -> None:
        async with ledgers(store) as (ledger,):
            revoked, expired = await make_key(ledger), await make_key(ledger, expires_at=1.0)
            await ledger.database.write(lambda connection: revoke_key(connection, revoked.id))
            for key, words in ((revoked, "revoked"), (expired, "expired")):
                with pytest.raises(AuthenticationError, match=words):
                    await ledger.reserve(hold(key, 1))
                assert await charged(ledger, key) == []

    run(work)


def test_a_call_is_settled_once_and_for_no_more_than_was_held(store: str) -> None:
    async def work() -> None:
        async with ledgers(store) as (ledger,):
            key = await make_key(ledger)
            wanted = hold(key, 1)
            await ledger.reserve(wanted)
            await asyncio.gather(*(ledger.settle(bill(wanted, 5000)) for _ in range(3)))
            await ledger.settle(bill(wanted, 1))
            await ledger.mark(bill(wanted, 1))
            after = await read_key(ledger, key)
            assert (after.spent, after.reserved, after.running) == (2000, 0, 0)
            assert await charged(ledger, key) == [("settled", 2000)]

    run(work)


def test_what_a_replica_left_open_is_charged_as_of_its_checkpoint(store: str) -> None:
    async def work() -> None:
        async with ledgers(store) as (first,):
            key = await make_key(first)
            asked = [hold(key, number) for number in range(3)]
            for one in asked:
                await first.reserve(one)
            await first.mark(bill(asked[0], 700))
            await first.mark(bill(asked[1], 9000))
            # The same name again: the first one's process has died and was started anew.
            again = Ledger(Database(store, servers=True), first.name)
            await again.start()
            after = await read_key(again, key)
            assert (after.spent, after.reserved, after.running) == (2700, 0, 0)
            assert sorted(await charged(again, key))[0][0] == "recovered"
            # It was not dead after all, and ends what it had begun: charged in full, and once.
            await first.settle(bill(asked[0], 1500))
            assert (await read_key(again, key)).spent == 3500
            await again.close()
            again.database.close()

    run(work)


def test_a_replica_that_says_nothing_for_long_is_taken_for_dead(postgres: PostgresServer) -> None:
    async def work() -> None:
        postgres.empty()
        async with ledgers(postgres.url, 2) as (dead, alive):
            key = await make_key(alive)
            await dead.reserve(hold(key, 1))
            await dead.mark(bill(hold(key, 1), 300))
            late = replicas.update().where(replicas.c.id == dead.replica)
            await alive.database.write(
                lambda c: c.execute(late.values(seen_at=replicas.c.seen_at - LEASE_S - 1)) and None
            )
            await alive.database.write(alive._renew)
            assert (await read_key(alive, key)).spent == 300

    run(work)


def test_a_store_that_goes_away_loses_nothing(postgres: PostgresServer) -> None:
    async def work() -> None:
        postgres.empty()
        async with ledgers(postgres.url) as (ledger,):
            key = await make_key(ledger)
            wanted = hold(key, 1)
            await ledger.reserve(wanted)
            postgres.stop()
            try:
                settling = ledger.settle(bill(wanted, 1234))
                with pytest.raises(StorageError):
                    await ledger.reserve(hold(key, 2))
                assert not settling.done()
            finally:
                postgres.start()
            async with asyncio.timeout(30):
                await settling
            after = await read_key(ledger, key)
            assert (after.spent, after.reserved, after.running) == (1234, 0, 0)
            await ledger.reserve(hold(key, 3))

    run(work)


def test_what_could_not_be_settled_in_time_and_was_not_sent_is_not_owed(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(billing, "_SETTLE_S", 0.2)

    async def work() -> None:
        postgres.empty()
        async with ledgers(postgres.url) as (ledger,):
            key = await make_key(ledger)
            sent, unsent = (
                billing.Billing(ledger, hold(key, number), Price(call=2000), 1) for number in ("sent", "unsent")
            )
            for one in (sent, unsent):
                await one.hold()
                one.was_served("n")
            postgres.stop()
            try:
                for one in (sent, unsent):
                    with pytest.raises(StorageError):
                        await one.settle("ok")
                unsent.forgive()
            finally:
                postgres.start()
            async with asyncio.timeout(30):
                while (await read_key(ledger, key)).running:
                    await asyncio.sleep(0.1)
            assert (await read_key(ledger, key)).spent == 2000

    run(work)


def test_a_budget_may_be_raised(store: str) -> None:
    async def work() -> None:
        async with ledgers(store) as (ledger,):
            key = await make_key(ledger, budget=1000)
            with pytest.raises(NoCreditError, match=r"\$0.002"):
                await ledger.reserve(hold(key, 1))
            await ledger.database.write(lambda connection: change_key(connection, key.id, {"budget": 2000}))
            await ledger.reserve(hold(key, 2))

    run(work)


def test_only_a_digest_of_a_key_is_kept(tmp_path: Path) -> None:
    database = Database(tmp_path / "keys.db")
    secret, _ = database.write_now(lambda c: create_key(c, NewKey(name="k", tenant="t", tier="x")))
    database.close()
    assert len(secret) >= 43, "256 bits in base64"
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert secret.encode() not in stored
    assert secret.encode()[10:] not in stored


# The sliding window, against the list of all that ever happened.


@given(
    st.lists(st.tuples(st.floats(0, 30), st.integers(0, 50)), max_size=40),
    st.integers(1, 8),
    st.integers(1, 120),
)
def test_no_minute_holds_more_than_its_limit(steps: Sequence[tuple[float, int]], requests: int, tokens: int) -> None:
    now, recent, had = 1000.0, Recent(), list[tuple[float, int]]()
    for pause, size in steps:
        now += pause
        recent = Recent(recent.stored())
        recent.forget(now)
        over = max(0, recent.requests + 1 - requests), max(0, recent.tokens + size - tokens)
        if not any(over):
            recent.add(now, size)
            had.append((now, size))
        elif size <= tokens:
            after = now + recent.wait(now, requests=over[0], tokens=over[1])
            later = Recent(recent.stored())
            later.forget(after)
            assert later.requests < requests
            assert later.tokens + size <= tokens, "after the wait there is room"
        within = [(at, one) for at, one in had if at > now - WINDOW_S]
        assert len(within) <= requests
        assert sum(one for _, one in within) <= tokens


def test_a_clock_that_goes_back_frees_nothing() -> None:
    recent = Recent()
    recent.forget(5000)
    recent.add(5000, 10)
    recent.forget(1000)
    assert (recent.requests, recent.tokens) == (1, 10)
    recent.forget(1000 + WINDOW_S + 2)
    assert recent.requests == 0, "nor is it kept for ever"


def test_the_clock_of_one_gateway_does_not_jump() -> None:
    wall, steady = [1000.0], [5.0]
    clock = _Clock(lambda: wall[0], lambda: steady[0])
    wall[0], steady[0] = 99_999.0, 6.0
    assert clock.now() == 1001.0


# Money.


@pytest.mark.parametrize(("given", "found"), [("0.002", 2000), (0.1, 100_000), ("$25", 25_000_000), (0, 0)])
def test_dollars_are_micro_dollars_exactly(given: str | float, found: int) -> None:
    assert micros(given, "x") == found


@pytest.mark.parametrize("given", ["free", "-1", "0.0000001", "nan", "1e30", True])
def test_what_is_no_price_is_refused(given: Any) -> None:
    with pytest.raises(OstroError, match="x"):
        micros(given, "x")


@given(st.integers(0, 10**9), st.integers(0, 10**7), st.integers(0, 10**7))
def test_a_price_is_never_below_what_its_tokens_cost(call: int, prompt: int, completion: int) -> None:
    price = Price(call=call, prompt=prompt, completion=completion)
    exact = call * 10**6 + 123 * prompt + 456 * completion
    assert 0 <= price.of(123, 456) * 10**6 - exact < 10**6


@given(st.integers(0, 10**12))
def test_dollars_read_back(amount: int) -> None:
    assert micros(usd(amount), "x") == amount
