"""Leases: one server at a time runs a job, and one that lost it cannot write into it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from ostro.storage import Database, jobs
from ostro.storage.jobs import Job, JobQuery, JobStore, LeaseLostError, Line


@pytest.fixture
def store() -> Iterator[JobStore]:
    database = Database()
    yield JobStore(database)
    database.close()


def job(name: str, **fields: Any) -> Job:
    given = {"created_at": time.time(), "deadline": time.time() + 60, "total": 3, "window": "24h", **fields}
    return Job(id=name, face="mistral", endpoint="/v1/x", input_files=[], **given)


def line(number: int, succeeded: bool = True) -> Line:
    return Line(number=number, succeeded=succeeded, text=f"line {number}", tokens={"input_tokens": 2})


def run(work: Any, *arguments: Any) -> Any:
    return anyio.run(work, *arguments)


def test_a_job_is_claimed_once_and_again_when_its_lease_is_over(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(store.add, job("a"))
    first = run(store.claim, "one")
    assert (first.id, first.status, first.lease_owner) == ("a", "running", "one")
    assert run(store.claim, "two") is None
    monkeypatch.setattr(jobs.time, "time", lambda now=time.time: now() + jobs.LEASE_S + 1)
    assert run(store.claim, "two").lease_owner == "two"
    with pytest.raises(LeaseLostError):
        run(store.renew, "a", "one")
    assert run(store.renew, "a", "two") == "running"


def test_renewing_keeps_a_lease(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(jobs.time, "time", lambda: now)
    run(store.add, job("a"))
    run(store.claim, "one")
    for _ in range(5):
        now += jobs.LEASE_S * 0.8
        run(store.renew, "a", "one")
        assert run(store.claim, "two") is None


def test_a_server_that_lost_its_lease_records_nothing_and_ends_nothing(store: JobStore) -> None:
    run(store.add, job("a"))
    run(store.claim, "one")
    run(store.record, "a", "one", line(0))
    run(store.release, "a", "one")
    run(store.claim, "two")
    with pytest.raises(LeaseLostError):
        run(store.record, "a", "one", line(1))
    with pytest.raises(LeaseLostError):
        store.finish_now("a", "one", "succeeded")
    assert run(store.finished_numbers, "a") == {0}
    run(store.record, "a", "two", line(1, succeeded=False))
    found = run(store.find, "a", "")
    assert (found.succeeded, found.failed, found.input_tokens, found.status) == (1, 1, 4, "running")
    assert [done.text for done in store.lines_now("a", -1, 10)] == ["line 0", "line 1"]
    store.finish_now("a", "two", "succeeded")
    assert store.lines_now("a", -1, 10) == []
    assert run(store.claim, "one") is None


def test_a_line_is_recorded_once(store: JobStore) -> None:
    run(store.add, job("a"))
    run(store.claim, "one")
    run(store.record, "a", "one", line(0))
    with pytest.raises(Exception, match="UNIQUE"):
        run(store.record, "a", "one", line(0))
    assert run(store.find, "a", "").succeeded == 1


def test_cancelling_ends_what_nobody_runs_and_asks_who_runs_it(store: JobStore) -> None:
    run(store.add, job("waiting", created_at=2.0))
    run(store.add, job("running", created_at=1.0))
    assert run(store.claim, "one").id == "running"
    assert run(store.cancel, "waiting").status == "cancelled"
    assert run(store.cancel, "running").status == "cancelling"
    assert run(store.renew, "running", "one") == "cancelling"
    assert run(store.claim, "two") is None
    assert run(store.cancel, "nothing") is None


def test_jobs_to_be_ended_are_claimed_before_older_ones(store: JobStore) -> None:
    for name, created in (("old", 1.0), ("new", 2.0)):
        run(store.add, job(name, created_at=created))
    assert [run(store.claim, "one").id for _ in range(2)] == ["old", "new"]
    run(store.cancel, "new")
    for name in ("old", "new"):
        run(store.release, name, "one")
    assert [run(store.claim, "two").id for _ in range(2)] == ["new", "old"]


def test_metadata_is_compared_pair_by_pair_whatever_its_keys_are(store: JobStore) -> None:
    odd = """a"b'c.$[0]"""
    run(store.add, job("odd", metadata={odd: "v", "n": 1, "b": True, "l": ["v"]}))
    run(store.add, job("none"))
    run(store.add, job("spoilt", metadata={"n": float("nan")}))  # no JSON: older servers took it
    run(store.add, job("theirs", metadata={"n": 1}, owner="somebody"))

    def found(**metadata: str) -> list[str]:
        return [each.id for each in run(store.page, JobQuery(owner="", metadata=metadata))[0]]

    assert found(**{odd: "v"}) == ["odd"]
    assert found(**{odd: "w"}) == []
    assert found(**{odd: "v", "other": "v"}) == []
    assert found(n="1") == found(b="true") == found(b="True") == ["odd"]
    assert found(n="true") == found(b="1") == found(l="v") == []
    assert sorted(found()) == ["none", "odd", "spoilt"]
