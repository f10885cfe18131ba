"""Which endpoint is taken, and what happens when it stops in the middle."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from hub.fake_hub import FakeHub, Faults
from hub.pulling import REPO, SHARD_1, SIZE, Watch, pull
from ostro.core.errors import HubError
from ostro.weights.hub.endpoint import configured_endpoints


@pytest.fixture(autouse=True)
def _home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")


def test_the_quickest_to_answer_is_taken_and_said(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch()
    with (
        FakeHub({REPO: repo}, Faults(delay_s=1.0)) as hub,
        FakeHub({REPO: repo}, Faults(delay_s=1.5)) as slow,
        FakeHub({REPO: repo}) as quick,
    ):
        monkeypatch.setenv("OSTRO_MIRRORS", f"{slow.url}, {quick.url}/")
        result = pull(hub, watch=watch)
        assert (hub.file_requests(), slow.file_requests()) == ([], [])
    assert result.manifest.endpoint == quick.url
    assert f"Fetching from {quick.url}, the quickest" in watch.text


def test_a_quick_mirror_without_this_repository_is_not_taken(repo: Path) -> None:
    with FakeHub({REPO: repo}, Faults(delay_s=0.1)) as hub, FakeHub({}) as empty:
        watch = Watch()
        assert pull(hub, watch=watch, mirrors=(empty.url,)).manifest.endpoint == hub.url
    assert f"Left out {empty.url}" in watch.text


def test_a_hanging_mirror_holds_nothing_up(repo: Path) -> None:
    start = time.monotonic()
    with FakeHub({REPO: repo}) as hub, FakeHub({REPO: repo}, Faults(delay_s=30)) as hanging:
        assert pull(hub, mirrors=(hanging.url,)).manifest.endpoint == hub.url
    assert time.monotonic() - start < 25


@pytest.mark.parametrize("change", ["commit", "digest"])
def test_a_mirror_that_disagrees_with_the_hub_is_left_out(repo: Path, tmp_path: Path, change: str) -> None:
    other = tmp_path / "other"
    shutil.copytree(repo, other)
    (other / SHARD_1).write_bytes(b"y" * SIZE)
    watch = Watch()
    with FakeHub({REPO: repo}, Faults(delay_s=1.0)) as hub:  # much slower, and yet its word counts
        claimed = None if change == "commit" else str(hub.listing(REPO)["sha"])
        with FakeHub({REPO: other}, commit=claimed) as mirror:
            result = pull(hub, watch=watch, mirrors=(mirror.url,))
            assert mirror.file_requests() == []
    assert (result.path / SHARD_1).read_bytes() == (repo / SHARD_1).read_bytes()
    assert f"Left out {mirror.url}: it" in watch.text


def test_the_next_takes_over_when_one_breaks_off(repo: Path) -> None:
    watch = Watch()
    with (
        FakeHub({REPO: repo}, Faults(delay_s=0.3)) as hub,
        FakeHub({REPO: repo}, Faults(break_after=300_000, only=SHARD_1)) as mirror,
    ):
        result = pull(hub, watch=watch, mirrors=(mirror.url,))
        assert [seen.range_start for seen in mirror.file_requests(SHARD_1)] == [None]
        assert [seen.range_start for seen in hub.file_requests(SHARD_1)] == [300_000]
    assert (result.path / SHARD_1).read_bytes() == (repo / SHARD_1).read_bytes()
    assert f"Going on with {hub.url}" in watch.text


def test_a_dead_hub_with_a_living_mirror(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeHub({REPO: repo}) as dead:
        pass
    with FakeHub({REPO: repo}) as mirror:
        assert pull(dead, mirrors=(mirror.url,)).manifest.endpoint == mirror.url


def test_a_hub_that_hangs_is_waited_for_only_so_long(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ostro.weights.hub.mirrors.HUB_WAIT_S", 0.2)
    with FakeHub({REPO: repo}, Faults(delay_s=30)) as hub, FakeHub({REPO: repo}) as mirror:
        assert pull(hub, mirrors=(mirror.url,)).manifest.endpoint == mirror.url


def test_nobody_has_it(repo: Path) -> None:
    with FakeHub({}) as one, FakeHub({}) as two, pytest.raises(HubError, match="404"):
        pull(one, mirrors=(two.url,))


def test_the_token_is_the_configured_hubs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example/")
    monkeypatch.setenv("OSTRO_MIRRORS", "https://mirror.example,https://hub.example")
    endpoints = configured_endpoints(("https://third.example",))
    assert [(e.url, e.token) for e in endpoints] == [
        ("https://hub.example", "hf_secret"),
        ("https://mirror.example", None),
        ("https://third.example", None),
    ]
    assert "hf_secret" not in repr(endpoints)


@pytest.mark.parametrize("url", ["huggingface.co", "ftp://hub", "https://user:pw@hub", "https://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(HubError, match="is not the address of a hub"):
        configured_endpoints((url,))
