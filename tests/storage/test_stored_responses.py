"""Stored responses: found by their owner, chained, and gone in time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import func, select

from ostro.storage import Database, responses
from ostro.storage.responses import KEPT_S, ResponseStore, StoredResponse
from ostro.storage.schema import responses as table


@pytest.fixture
def database() -> Iterator[Database]:
    made = Database()
    yield made
    made.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """now: the time in seconds, as the store sees it."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(responses, "time", SimpleNamespace(time=lambda: clock.now))
    return clock


def answer(name: str, previous: str | None = None, owner: str = "me") -> StoredResponse:
    fields: dict[str, Any] = {"input": [{"asked": name}], "output": [{"said": name}], "body": {"id": name}}
    return StoredResponse(id=name, previous_id=previous, created_at=1.0, model="m", owner=owner, **fields)


def chain(database: Database, name: str, owner: str = "me") -> list[str]:
    return [turn.id for turn in asyncio.run(ResponseStore(database).conversation(name, owner))]


def add(database: Database, *answers: StoredResponse) -> None:
    for one in answers:
        asyncio.run(ResponseStore(database).add(one))


def test_an_answer_comes_back_as_it_went_in(database: Database) -> None:
    add(database, answer("a"))
    assert asyncio.run(ResponseStore(database).find("a", "me")) == answer("a")


def test_nobody_finds_what_is_anothers(database: Database) -> None:
    add(database, answer("a"), answer("b", "a", owner="you"))
    store = ResponseStore(database)
    for other in ("you", ""):
        assert asyncio.run(store.find("a", other)) is None
        assert chain(database, "a", other) == []
        assert asyncio.run(store.several(["a"], other)) == {}
        assert not asyncio.run(store.delete("a", other))
    assert chain(database, "b", "you") == ["b"]  # a chain does not lead out of its owner's answers
    assert asyncio.run(store.delete("a", "me"))
    assert not asyncio.run(store.delete("a", "me"))


def test_a_conversation_is_its_turns_in_order_and_no_others(database: Database) -> None:
    add(database, answer("a"), answer("b", "a"), answer("c", "b"), answer("d", "a"))
    assert chain(database, "c") == ["a", "b", "c"]
    assert chain(database, "d") == ["a", "d"]
    asyncio.run(ResponseStore(database).delete("a", "me"))
    turns = asyncio.run(ResponseStore(database).conversation("c", "me"))
    assert [turn.id for turn in turns] == ["b", "c"]
    assert turns[0].previous_id == "a"  # how one sees that the beginning is gone


def test_answers_expire_and_are_removed_by_the_next_write(database: Database, clock: SimpleNamespace) -> None:
    add(database, answer("a"))
    clock.now += KEPT_S - 1
    assert chain(database, "a") == ["a"]
    clock.now += 1
    assert chain(database, "a") == []
    assert asyncio.run(ResponseStore(database).find("a", "me")) is None
    add(database, answer("b"))
    kept = database.read_now(lambda connection: connection.execute(select(func.count()).select_from(table)).scalar())
    assert kept == 1


def test_a_conversation_that_goes_on_stays_whole(database: Database, clock: SimpleNamespace) -> None:
    add(database, answer("a"), answer("b", "a"), answer("other"))
    clock.now += KEPT_S / 2
    add(database, answer("c", "b"))
    clock.now += KEPT_S / 2 + 1
    assert chain(database, "c") == ["a", "b", "c"]
    assert chain(database, "other") == []
