"""Answers that are given again: to whom, when, for how long, at what price."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import RunningGateway, asking, events, node, settings
from stub_node import StubNode

from ostro.gateway.asking import ENDPOINTS, read_asked
from ostro.gateway.cache import AnswerCache, key_of
from ostro.gateway.config import CacheSettings
from ostro.gateway.events import Counted

CHAT = "/v1/chat/completions"
USED = Counted(1, 2)


@pytest.fixture(scope="module")
def stub() -> Iterator[StubNode]:
    with StubNode() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, stub: StubNode) -> Iterator[RunningGateway]:
    config = settings(node(stub.url), cache={"enabled": True, "ttl_s": 3600, "price": 0.25})
    with RunningGateway(tmp_path_factory.mktemp("caching"), config) as running:
        running.wait_for(running.key())
        yield running


def asked_twice(gateway: RunningGateway, stub: StubNode, body: dict[str, Any], **headers: str) -> tuple[int, list[Any]]:
    """How often the node was asked, and both answers."""
    before = len(stub.requests)
    with gateway.client(gateway.key(tenant="twice")) as client:
        answers = [client.post(CHAT, json=body, headers=headers) for _ in range(2)]
    assert [one.status_code for one in answers] == [200, 200]
    return len(stub.requests) - before, answers


def test_the_same_question_is_answered_from_the_cache(gateway: RunningGateway, stub: StubNode) -> None:
    asked, (first, second) = asked_twice(gateway, stub, asking("say one", temperature=0))
    assert asked == 1
    assert (first.headers["x-ostro-cache"], second.headers["x-ostro-cache"]) == ("miss", "hit")
    assert first.content == second.content
    assert second.headers["age"] == "0"
    assert (first.headers["x-ostro-cost-usd"], second.headers["x-ostro-cost-usd"]) == ("0.002", "0.0005")


def test_a_stream_is_given_again_as_the_same_stream(gateway: RunningGateway, stub: StubNode) -> None:
    asked, (first, second) = asked_twice(gateway, stub, asking("count 9", temperature=0, stream=True))
    assert asked == 1
    assert events(first) == events(second)
    assert second.headers["content-type"].startswith("text/event-stream")


def test_what_is_drawn_by_chance_is_drawn_anew_unless_asked_otherwise(gateway: RunningGateway, stub: StubNode) -> None:
    assert asked_twice(gateway, stub, asking("say drawn"))[0] == 2
    assert asked_twice(gateway, stub, asking("say drawn", temperature=0.5))[0] == 2
    assert asked_twice(gateway, stub, asking("say seeded", temperature=0.5, seed=7))[0] == 1
    assert asked_twice(gateway, stub, asking("say wished"), **{"x-ostro-cache": "on"})[0] == 1


def test_clients_say_what_they_want_of_it(gateway: RunningGateway, stub: StubNode) -> None:
    body = asking("say control", temperature=0)
    assert asked_twice(gateway, stub, body, **{"cache-control": "no-store"})[0] == 2
    assert asked_twice(gateway, stub, body, **{"x-ostro-cache": "off"})[0] == 2
    assert asked_twice(gateway, stub, body, **{"cache-control": "no-cache"})[0] == 2, "asked anew, but kept"
    asked, (first, _) = asked_twice(gateway, stub, body)
    assert (asked, first.headers["x-ostro-cache"]) == (0, "hit")


def test_no_tenant_gets_what_another_asked_for(gateway: RunningGateway, stub: StubNode) -> None:
    body, before = asking("say secret", temperature=0), len(stub.requests)
    for tenant in ("one", "two"):
        with gateway.client(gateway.key(tenant=tenant)) as client:
            assert client.post(CHAT, json=body).headers["x-ostro-cache"] == "miss"
    assert len(stub.requests) == before + 2
    with gateway.client(gateway.key(tenant="one", name="another key")) as client:
        assert client.post(CHAT, json=body).headers["x-ostro-cache"] == "hit", "keys of one tenant share"


def test_what_did_not_end_well_is_not_kept(gateway: RunningGateway, stub: StubNode) -> None:
    before = len(stub.requests)
    with gateway.client(gateway.key()) as client:
        for text in ("cut 3", "error 3"):
            for _ in range(2):
                client.post(CHAT, json=asking(text, temperature=0, stream=True))
        for _ in range(2):
            client.post(CHAT, json=asking("bad", temperature=0))
    assert len(stub.requests) == before + 6


def test_limits_hold_for_the_cache_too(gateway: RunningGateway) -> None:
    with gateway.client(gateway.key(requests_per_minute=3)) as client:
        codes = [client.post(CHAT, json=asking("say limited", temperature=0)).status_code for _ in range(5)]
    assert codes == [200, 200, 200, 429, 429]


def test_it_is_off_unless_it_is_wanted(tmp_path: Path, stub: StubNode) -> None:
    with RunningGateway(tmp_path, settings(node(stub.url))) as running:
        running.wait_for(running.key())
        asked, (_, second) = asked_twice(running, stub, asking("say off", temperature=0))
    assert asked == 2
    assert "x-ostro-cache" not in second.headers


def test_metrics_count_hits(gateway: RunningGateway, stub: StubNode) -> None:
    asked_twice(gateway, stub, asking("say counted", temperature=0))
    with gateway.client(gateway.key(watches=True)) as client:
        text = client.get("/metrics").text
    found = {
        name: float(value)
        for name, value in (line.split() for line in text.splitlines() if " " in line and line[0] != "#")
    }
    assert found["ostro_gateway_cache_hits_total"] >= 1
    assert found["ostro_gateway_cache_misses_total"] >= 1
    assert found["ostro_gateway_cache_bytes"] > 0


# The cache itself.


def body_of(**fields: Any) -> Any:
    import json

    return read_asked(ENDPOINTS[CHAT], json.dumps(fields).encode(), "m")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["messages", "top_p", "x", "tools"]), JSON), st.text(max_size=4))
def test_equal_requests_have_equal_keys_and_others_do_not(fields: dict[str, Any], tenant: str) -> None:
    first = key_of(tenant, body_of(**fields))
    assert key_of(tenant, body_of(**dict(reversed(fields.items())), user="u", metadata={"a": 1})) == first
    assert key_of(tenant + "x", body_of(**fields)) != first
    assert key_of(tenant, body_of(**fields, y=1)) != first
    assert key_of(tenant, body_of(**fields, model="other")) != first


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 400), st.floats(0, 5)), max_size=60))
def test_it_keeps_to_its_bytes_and_its_time(steps: list[tuple[int, int, float]]) -> None:
    now, at = [0.0], dict[bytes, float]()
    cache = AnswerCache(CacheSettings(enabled=True, ttl_s=10.0, max_bytes=8000), clock=lambda: now[0])
    for number, size, pause in steps:
        now[0] += pause
        key = bytes([number])
        found = cache.find(key)
        if found is None:
            cache.keep(key, (b"x" * size,), USED, "n")
            at[key] = now[0]
        else:
            assert now[0] - at[key] <= 10.0
        assert cache.bytes <= 8000
        assert cache.bytes == sum(one.size for one in cache._kept.values())


def test_the_least_recently_used_goes_first_and_the_too_large_is_not_kept() -> None:
    cache = AnswerCache(CacheSettings(enabled=True, max_bytes=8 * 1024))
    for number in range(8):
        cache.keep(bytes([number]), (b"x" * 512,), USED, "n")
    assert len(cache) == 8
    cache.find(b"\x00")
    cache.keep(b"new", (b"x" * 512,), USED, "n")
    assert cache.find(b"\x00") is not None
    assert cache.find(b"\x01") is None
    cache.keep(b"large", (b"x" * 2048,), USED, "n")
    assert cache.find(b"large") is None
