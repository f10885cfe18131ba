"""`pull_model` against a real hub-shaped server: what is fetched, verified, resumed and refused."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

from hub.fake_hub import FakeHub, Faults
from hub.pulling import REPO, SHARD_1, SHARD_2, SIZE, Watch, pull
from ostro.core.errors import HubError, ModelNotFoundError
from ostro.weights.hub.endpoint import Endpoint, new_client
from ostro.weights.hub.pull import PullResult
from ostro.weights.hub.transfer import Fetcher, Patience
from ostro.weights.manifest import MANIFEST, read_manifest
from ostro.weights.resolve import resolve_model


@pytest.fixture(autouse=True)
def _home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")


def test_a_whole_pull_brings_one_weight_format_and_its_companions(repo: Path) -> None:
    watch = Watch()
    with FakeHub({REPO: repo}) as hub:
        result = pull(hub, "mistral-7b-v0.3", watch=watch)
    names = {path.name for path in result.path.iterdir()}
    assert names == {
        SHARD_1, SHARD_2, "model.safetensors.index.json", "config.json", "params.json", "tekken.json", "empty.json",
        "README.md", ".ostro-pull.json",
    }  # fmt: skip
    for file in result.manifest.files:
        assert (result.path / file.path).read_bytes() == (repo / file.path).read_bytes()
    assert result.manifest.weights == "hf"
    assert "consolidated.safetensors" in result.skipped
    assert "Chose the Hugging Face weights" in watch.text
    assert "consolidated.safetensors" in watch.text
    assert watch.fresh == watch.total - (repo / "model.safetensors.index.json").stat().st_size
    assert result.path.name == "mistralai--Mistral-7B-v0.3"
    assert resolve_model("mistral-7b-v0.3") == resolve_model(REPO) == result.path


def test_native_weights_are_taken_where_there_are_no_others(repo: Path) -> None:
    for name in (SHARD_1, SHARD_2, "model.safetensors.index.json", "consolidated.safetensors.index.json"):
        (repo / name).unlink()
    with FakeHub({REPO: repo}) as hub:
        result = pull(hub)
    assert result.manifest.weights == "native"
    assert (result.path / "consolidated.safetensors").stat().st_size == SIZE


def test_a_second_pull_transfers_nothing(repo: Path) -> None:
    with FakeHub({REPO: repo}) as hub:
        commit = pull(hub).manifest.commit
        hub.forget()
        again = pull(hub)
        assert again.transferred == 0
        assert hub.file_requests() == []
        hub.forget()
        assert pull(hub, revision=commit).transferred == 0
        assert hub.seen == []  # a full commit id needs no question


def test_a_new_commit_fetches_only_what_changed_and_keeps_what_others_put_there(repo: Path) -> None:
    with FakeHub({REPO: repo}) as hub:
        first = pull(hub)
        (first.path / "notes.txt").write_text("mine")
        (repo / SHARD_2).write_bytes(b"x" * SIZE)
        hub.forget()
        second = pull(hub)
        assert second.manifest.commit != first.manifest.commit
        assert {seen.path.split("/")[-1] for seen in hub.file_requests()} == {SHARD_2, "model.safetensors.index.json"}
    assert (second.path / SHARD_2).read_bytes() == b"x" * SIZE
    assert (second.path / SHARD_1).read_bytes() == (repo / SHARD_1).read_bytes()
    assert (second.path / "notes.txt").read_text() == "mine"


def test_a_broken_transfer_is_taken_up_where_it_broke(repo: Path) -> None:
    watch = Watch()
    with FakeHub({REPO: repo}, Faults(break_after=300_000, only=SHARD_1)) as hub:
        result = pull(hub, watch=watch)
        starts = [seen.range_start for seen in hub.file_requests(SHARD_1)]
    assert starts == [None, 300_000, 600_000]
    assert hub.bytes_sent(SHARD_1) == SIZE
    assert (result.path / SHARD_1).read_bytes() == (repo / SHARD_1).read_bytes()
    assert "broke" in watch.text


def test_a_later_pull_goes_on_from_the_parts_of_one_that_gave_up(repo: Path) -> None:
    faults = Faults(break_after=0, only=SHARD_2)
    with FakeHub({REPO: repo}, faults) as hub:
        with pytest.raises(HubError, match="Gave up after 3 attempts; pull again"):
            pull(hub)
        with pytest.raises(ModelNotFoundError, match=f"ostro pull {REPO}"):
            resolve_model(REPO)
        faults.break_after = None
        hub.forget()
        result = pull(hub)
        assert hub.file_requests(SHARD_1) == []
    assert (result.path / SHARD_2).read_bytes() == (repo / SHARD_2).read_bytes()


def test_a_server_without_ranges_starts_anew(repo: Path) -> None:
    faults = Faults(break_after=300_000, breaks=1, only=SHARD_1, ignore_range=True)
    watch = Watch()
    with FakeHub({REPO: repo}, faults) as hub:
        result = pull(hub, watch=watch)
    assert (result.path / SHARD_1).read_bytes() == (repo / SHARD_1).read_bytes()
    assert "cannot resume" in watch.text
    assert watch.fresh + watch.reused == watch.total


def test_a_server_without_ranges_that_always_breaks_does_not_loop_for_good(repo: Path) -> None:
    with (
        FakeHub({REPO: repo}, Faults(break_after=300_000, only=SHARD_1, ignore_range=True)) as hub,
        pytest.raises(HubError, match="Gave up"),
    ):
        pull(hub)
    assert len(hub.file_requests(SHARD_1)) <= 6


def test_an_overloaded_hub_is_asked_again(repo: Path) -> None:
    faults = Faults(refuse=503, refuse_times=2)
    with FakeHub({REPO: repo}, faults) as hub:
        assert pull(hub).transferred > 0
        shutil.rmtree(resolve_model(REPO))
        watch = Watch()
        tell = watch.say

        def refuse_once_the_listing_is_there(line: str) -> None:
            tell(line)
            faults.refuse_times = 2 if line.startswith("Chose") else faults.refuse_times

        watch.say = refuse_once_the_listing_is_there  # type: ignore[method-assign]  # the stand-in has any shape
        assert pull(hub, watch=watch).transferred > 0
    assert watch.text.count("answered 503") == 2


def test_a_wait_that_the_hub_asks_for_is_kept_within_bounds(repo: Path, tmp_path: Path) -> None:
    waits: list[float] = []
    with FakeHub({REPO: repo}) as hub, new_client() as client:
        endpoint = Endpoint(hub.url)
        listing = endpoint.listing(client, REPO, "main")
        fetcher = Fetcher(client, listing, (endpoint,), tmp_path, Watch(), Patience(backoff_s=0.5), waits.append)
        hub.faults.refuse, hub.faults.retry_after = 429, 7
        config = listing.file("config.json")
        assert config is not None
        with pytest.raises(HubError, match="Gave up after 5 attempts"):
            fetcher.fetch(config)
        assert waits == [7, 7, 7, 7]
        waits.clear()
        hub.faults.retry_after = 9999
        with pytest.raises(HubError, match="Gave up"):
            fetcher.fetch(config)
        assert waits == [30, 30, 30, 30]
        waits.clear()
        hub.faults.retry_after = None
        with pytest.raises(HubError, match="Gave up"):
            fetcher.fetch(config)
        assert waits == [0.5, 1, 2, 4]


def test_what_a_stopped_pull_left_whole_is_verified_again(repo: Path, home: Path) -> None:
    staging = home / "models" / ".mistralai--Mistral-7B-v0.3.pulling"
    staging.mkdir(parents=True)
    (staging / SHARD_1).write_bytes(b"x" * SIZE)
    (staging / SHARD_2).write_bytes((repo / SHARD_2).read_bytes())
    with FakeHub({REPO: repo}) as hub:
        result = pull(hub)
        assert hub.bytes_sent(SHARD_2) == 0
    assert (result.path / SHARD_1).read_bytes() == (repo / SHARD_1).read_bytes()


def test_folders_of_a_repository_are_left_out(repo: Path) -> None:
    (repo / "onnx").mkdir()
    (repo / "onnx" / "config.json").write_text("{}")
    with FakeHub({REPO: repo}) as hub:
        result = pull(hub)
    assert not (result.path / "onnx").exists()
    assert "onnx/config.json" in result.skipped


def test_parts_of_another_commit_are_cleared_away(repo: Path, home: Path) -> None:
    faults = Faults(break_after=0, only=SHARD_2)
    with FakeHub({REPO: repo}, faults) as hub:
        with pytest.raises(HubError, match="Gave up"):
            pull(hub)
        staging = home / "models" / ".mistralai--Mistral-7B-v0.3.pulling"
        (staging / f"{SHARD_2}.0123456789abcdef.part").write_bytes(b"of another commit")
        (staging / "stale.json").write_bytes(b"{}")
        faults.breaks = 0
        result = pull(hub)
    assert {path.name for path in result.path.iterdir()} == {f.path for f in result.manifest.files} | {MANIFEST}


def test_a_range_survives_a_redirect(repo: Path) -> None:
    with (
        FakeHub({REPO: repo}, Faults(break_after=400_000, only=SHARD_1)) as cdn,
        FakeHub({REPO: repo}, Faults(redirect=cdn.url)) as hub,
    ):
        pull(hub)
        assert [seen.range_start for seen in cdn.file_requests(SHARD_1)] == [None, 400_000]


def test_concurrent_pulls_of_one_model_transfer_it_once(repo: Path) -> None:
    results: list[PullResult] = []
    watches = [Watch(), Watch()]
    with FakeHub({REPO: repo}, Faults(chunk_delay_s=0.01)) as hub:
        threads = [threading.Thread(target=lambda w=w: results.append(pull(hub, watch=w))) for w in watches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert hub.bytes_sent(SHARD_1) == SIZE
    assert sorted(result.transferred > 0 for result in results) == [False, True]
    assert any("Another pull" in watch.text for watch in watches)


def test_output_names_the_parent_and_a_strangers_folder_is_left_alone(repo: Path, tmp_path: Path) -> None:
    with FakeHub({REPO: repo}) as hub:
        result = pull(hub, "mistral-7b-v0.3", output=tmp_path / "models")
        assert result.path == tmp_path / "models" / "mistral-7b-v0.3"
        stranger = tmp_path / "other" / "mistral-7b-v0.3"
        stranger.mkdir(parents=True)
        (stranger / "thesis.tex").write_text("years")
        with pytest.raises(HubError, match="no pull made it"):
            pull(hub, "mistral-7b-v0.3", output=tmp_path / "other")
    assert (stranger / "thesis.tex").read_text() == "years"


def test_an_unreachable_hub_names_the_copy_that_is_there(repo: Path) -> None:
    with FakeHub({REPO: repo}) as hub:
        result = pull(hub)
    with pytest.raises(HubError, match=f"still in {result.path}"):
        pull(hub)


def test_a_folder_that_lost_a_file_is_pulled_again(repo: Path) -> None:
    with FakeHub({REPO: repo}) as hub:
        result = pull(hub)
        (result.path / SHARD_1).unlink()
        with pytest.raises(ModelNotFoundError, match="lacks files"):
            resolve_model(REPO)
        hub.forget()
        pull(hub)
        assert hub.bytes_sent(SHARD_2) == 0
    assert (resolve_model(REPO) / SHARD_1).stat().st_size == SIZE


def test_the_manifest_records_what_was_pulled(repo: Path) -> None:
    with FakeHub({REPO: repo}) as hub:
        result = pull(hub, revision="v1")
    manifest = read_manifest(result.path)
    assert manifest is not None
    assert (manifest.repo, manifest.revision, manifest.endpoint) == (REPO, "v1", hub.url)
    assert json.loads((result.path / ".ostro-pull.json").read_text())["commit"] == manifest.commit
    assert {file.digest.split(":")[0] for file in manifest.files} == {"sha256", "git-sha1"}
