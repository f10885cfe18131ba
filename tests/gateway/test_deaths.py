"""kill -9 at random moments under load: every answer that was complete is charged, once, and nothing else is lost."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from running import RunningGateway, asking, node, settings
from sqlalchemy import select
from stub_node import StubNode

from ostro.core.money import Price
from ostro.gateway.billing import BEHIND
from ostro.storage import Database
from ostro.storage.keys import get_key
from ostro.storage.schema import calls

# As the tier "tokens" of `running.settings`; the stub's prompts are of 7 tokens.
PRICE = Price(call=2000, prompt=1_000_000, completion=1_000_000_000)
PROMPT = 7
CLIENTS = 16


@pytest.fixture(scope="module")
def stub() -> Iterator[StubNode]:
    with StubNode() as running:
        yield running


@dataclass
class Seen:
    """What a client had of one answer."""

    call: str
    tokens: int
    complete: bool


async def _client(url: str, key: str, seen: list[Seen], rng: random.Random) -> None:
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session:
        while True:
            count = rng.randint(1, 90)
            streams = rng.random() < 0.7
            text = f"pause 0.002 {count}" if streams else f"count {count}"
            body = asking(text, stream=streams, max_tokens=100)
            one: Seen | None = None
            try:
                async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                    assert response.status == 200, await response.text()
                    one = Seen(response.headers["x-ostro-call"], 0, complete=False)
                    seen.append(one)
                    if not streams:
                        await response.read()
                        one.tokens, one.complete = count, True
                        continue
                    async for line in response.content:
                        one.tokens += b'"content"' in line
                        one.complete = one.complete or line.startswith(b"data: [DONE]")
            except (aiohttp.ClientError, OSError):
                return


async def _load(url: str, key: str, gateway: RunningGateway, seconds: float, rng: random.Random) -> list[Seen]:
    seen: list[Seen] = []
    clients = [asyncio.create_task(_client(url, key, seen, rng)) for _ in range(CLIENTS)]
    await asyncio.sleep(seconds)
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGKILL)
    await asyncio.wait_for(asyncio.gather(*clients), 30)
    return seen


def _rows(store: str, key_id: str) -> tuple[dict[str, Any], Any]:
    database = Database(store, servers=True)
    try:
        found = database.read_now(lambda c: c.execute(select(calls).where(calls.c.key_id == key_id)).mappings().all())
        return {row["id"]: row for row in found}, database.read_now(lambda c: get_key(c, key_id))
    finally:
        database.close()


def check_deaths(tmp_path: Path, stub: StubNode, store: str, deaths: int) -> None:
    gateway = RunningGateway(tmp_path, settings(node(stub.url, capacity=1000), store=store, name="gw"))
    rng = random.Random(deaths)
    key, key_id = gateway.made_key(tier="tokens")
    seen: list[Seen] = []
    for _ in range(deaths):
        with gateway:
            gateway.wait_for(key)
            seen += asyncio.run(_load(gateway.url, key, gateway, rng.uniform(0.1, 0.8), rng))
    with gateway:
        gateway.wait_for(key)
        time.sleep(0.2)
    rows, account = _rows(store, key_id)
    assert {row["state"] for row in rows.values()} <= {"settled", "recovered"}
    assert account.reserved == account.running == 0
    assert account.spent == sum(row["charge"] for row in rows.values())
    assert sum(one.complete for one in seen) > deaths
    for one in seen:
        row = rows[one.call]
        if one.complete:
            assert (row["state"], row["charge"]) == ("settled", PRICE.of(PROMPT, one.tokens)), one
        else:
            assert row["charge"] >= PRICE.of(PROMPT, max(0, one.tokens - BEHIND)), one
        assert row["charge"] <= row["reserved"]


def test_a_gateway_that_is_killed_loses_no_money(tmp_path: Path, stub: StubNode, store: str) -> None:
    check_deaths(tmp_path, stub, store, deaths=3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thirty_deaths_lose_no_money(tmp_path: Path, stub: StubNode, store: str) -> None:
    check_deaths(tmp_path, stub, store, deaths=30)
