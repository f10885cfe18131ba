"""Mixed load on many connections: no error that nobody asked for, and memory that stays where it is."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path

import aiohttp
import psutil
import pytest
from running import RunningGateway, asking, node, settings
from stub_node import StubNode

CHAT = "/v1/chat/completions"
# What a message makes the node do, and what the caller is answered.
WORK = {"count 20": 200, "say hello": 200, "pause 0.01 5": 200, "bad": 400, "nousage": 200}


async def _client(
    gateway: RunningGateway, keys: list[str], until: float, seen: Counter[str], rng: random.Random
) -> None:
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < until:
            text, expected = rng.choice(list(WORK.items()))
            stream = rng.random() < 0.5 and expected == 200
            body = asking(text, stream=stream, temperature=rng.choice([0, 1]), user=str(rng.random()))
            headers = {"authorization": f"Bearer {rng.choice(keys)}"}
            async with session.post(gateway.url + CHAT, json=body, headers=headers) as response:
                if stream and rng.random() < 0.2:
                    await response.content.readany()  # and leaves
                    seen["left"] += 1
                    response.close()
                    continue
                data = await response.read()
                well = response.status == expected and (not stream or data.rstrip().endswith(b"[DONE]"))
                seen["well" if well else f"{text} {response.status} {data[-200:]!r}"] += 1
            await asyncio.sleep(rng.random() * 0.2)


async def _soak(
    gateway: RunningGateway, keys: list[str], connections: int, seconds: float
) -> tuple[Counter[str], list[int]]:
    """What was seen, and the gateway's resident bytes over time."""
    assert gateway.process is not None
    process = psutil.Process(gateway.process.pid)
    seen: Counter[str] = Counter()
    until = time.monotonic() + seconds
    clients = [asyncio.create_task(_client(gateway, keys, until, seen, random.Random(n))) for n in range(connections)]
    sizes = []
    while time.monotonic() < until:
        await asyncio.sleep(seconds / 40)
        sizes.append(process.memory_info().rss)
    await asyncio.gather(*clients)
    return seen, sizes


def check_soak(tmp_path: Path, connections: int, seconds: float, growth: float) -> None:
    cache = {"enabled": True, "max_bytes": 1_000_000}
    with StubNode() as stub:
        config = settings(node(stub.url, capacity=100_000), cache=cache)
        with RunningGateway(tmp_path, config) as gateway:
            keys = [gateway.key(name=str(number), tenant=f"t{number % 3}") for number in range(5)]
            gateway.wait_for(keys[0])
            seen, sizes = asyncio.run(_soak(gateway, keys, connections, seconds))
            with gateway.client(gateway.key(admin=True)) as client:
                for _ in range(100):
                    records = client.get("/admin/keys").json()["data"]
                    if sum(one["running"] for one in records) == 0:
                        break
                    time.sleep(0.1)
                assert {one["reserved_usd"] for one in records} == {"0.00"}
            log = gateway.log.read_text()
    wrong = {what: count for what, count in seen.items() if what not in ("well", "left")}
    assert not wrong, wrong
    assert seen["well"] > connections
    assert "Traceback" not in log
    half = len(sizes) // 2
    early, late = sorted(sizes[half // 2 : half])[half // 4], sorted(sizes[-half // 2 :])[half // 4]
    assert late - early < growth * early, f"{early / 1e6:.0f} MB became {late / 1e6:.0f} MB"


def test_a_short_while_under_mixed_load(tmp_path: Path) -> None:
    check_soak(tmp_path, connections=150, seconds=12, growth=0.1)


@pytest.mark.slow
@pytest.mark.timeout(2 * 3600)
def test_an_hour_of_a_thousand_connections(tmp_path: Path) -> None:
    check_soak(tmp_path, connections=1000, seconds=float(os.environ.get("OSTRO_SOAK_S", "3600")), growth=0.05)
