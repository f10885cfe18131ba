"""`pull_model` against a real hub-shaped server: what is fetched, verified, resumed and refused."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import httpx2
import pytest

from hub.fake_hub import FakeHub, Faults
from hub.pulling import REPO, SHARD_1, SHARD_2, SIZE, Watch, pull
from ostro.core.errors import DigestMismatchError, HubError, ModelNotFoundError
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


@pytest.mark.parametrize("name", [SHARD_1, "config.json"])
def test_wrong_bytes_are_removed_and_both_digests_told(repo: Path, home: Path, name: str) -> None:
    with FakeHub({REPO: repo}, Faults(corrupt=True, only=name)) as hub:
        announced = next(f for f in hub.listing(REPO)["siblings"] if f["rfilename"] == name)  # type: ignore[attr-defined]
        digest = announced["lfs"]["sha256"] if "lfs" in announced else announced["blobId"]
        with pytest.raises(DigestMismatchError) as caught:
            pull(hub)
    assert name in str(caught.value)
    assert digest in str(caught.value)
    assert str(caught.value).count("sha256:" if "lfs" in announced else "git-sha1:") == 2
    assert not list(home.rglob(f"{name}*"))


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

        watch.say = refuse_once_the_listing_is_there  # type: ignore[method-assign]
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


def test_redirects_in_a_circle_end(repo: Path) -> None:
    with FakeHub({REPO: repo}, Faults(refuse=302)) as hub, pytest.raises(HubError, match="redirects without end"):
        pull(hub)


@pytest.mark.parametrize("target", ["http://hub.example/x", "file:///etc/passwd"])
def test_a_redirect_never_leaves_https(target: str) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(302, headers={"Location": target})

    with (
        httpx2.Client(transport=httpx2.MockTransport(answer)) as client,
        pytest.raises(HubError, match=r"from https to .* refused"),
    ):
        Endpoint("https://hub.example").listing(client, REPO, "main")


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


def test_a_gated_model_tells_what_to_do(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeHub({REPO: repo}, Faults(token="hf_secret")) as hub:
        with pytest.raises(HubError, match=r"accept the licence.*HF_TOKEN"):
            pull(hub)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        assert pull(hub).transferred > 0


def test_the_token_stays_with_the_hub_when_it_redirects(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with FakeHub({REPO: repo}) as cdn, FakeHub({REPO: repo}, Faults(token="hf_secret", redirect=cdn.url)) as hub:
        pull(hub)
        assert hub.bytes_sent() == 0
        assert len(cdn.seen) == 7
        assert not any("authorization" in {key.lower() for key in seen.headers} for seen in cdn.seen)
        assert all(seen.headers["Authorization"] == "Bearer hf_secret" for seen in hub.seen)


def test_a_range_survives_a_redirect(repo: Path) -> None:
    with (
        FakeHub({REPO: repo}, Faults(break_after=400_000, only=SHARD_1)) as cdn,
        FakeHub({REPO: repo}, Faults(redirect=cdn.url)) as hub,
    ):
        pull(hub)
        assert [seen.range_start for seen in cdn.file_requests(SHARD_1)] == [None, 400_000]


@pytest.mark.parametrize(
    "name",
    ["../evil.json", "/etc/evil.json", "a/../../evil.json", "..\\evil.json", "a//evil.json", "C:/evil.json", "e\nvil"],
)
def test_names_that_leave_the_folder_are_refused(repo: Path, home: Path, name: str) -> None:
    sibling = {"rfilename": name, "size": 3, "blobId": "0" * 40}
    with FakeHub({REPO: repo}, extra=(sibling,)) as hub:
        with pytest.raises(HubError, match="would leave the model's folder"):
            pull(hub)
        assert hub.file_requests() == []


def test_a_symlink_in_the_way_is_not_followed(repo: Path, home: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text("precious")
    staging = home / "models" / ".mistralai--Mistral-7B-v0.3.pulling"
    staging.mkdir(parents=True)
    (staging / "config.json").symlink_to(outside)
    with FakeHub({REPO: repo}) as hub, pytest.raises(HubError, match="symbolic link"):
        pull(hub)
    (staging / "config.json").unlink()
    with FakeHub({REPO: repo}) as hub:
        shard = next(f for f in hub.listing(REPO)["siblings"] if f["rfilename"] == SHARD_1)  # type: ignore[attr-defined]
        (staging / f"{SHARD_1}.{shard['lfs']['sha256'][:16]}.part").symlink_to(outside)
        with pytest.raises(HubError, match="cannot be written"):
            pull(hub)
    assert outside.read_text() == "precious"


@pytest.mark.parametrize("field", ["lfs", "blobId"])
def test_a_file_without_a_digest_is_refused(repo: Path, field: str) -> None:
    sibling: dict[str, object] = {"rfilename": "more.json", "size": 3}
    if field == "lfs":
        sibling["lfs"] = {"sha256": "../../x", "size": 3}
    with FakeHub({REPO: repo}, extra=(sibling,)) as hub, pytest.raises(HubError, match="no size and digest"):
        pull(hub)


def test_a_repository_of_pickles_is_refused(repo: Path) -> None:
    for path in repo.glob("*.safetensors*"):
        path.unlink()
    with FakeHub({REPO: repo}) as hub:
        with pytest.raises(HubError, match=r"pickles only \(pytorch_model.bin\).*run any code"):
            pull(hub)
        assert hub.file_requests() == []


@pytest.mark.parametrize(("name", "reason"), [("a.gguf", "GGUF"), ("adapter_model.safetensors", "adapter")])
def test_what_is_no_checkpoint_is_refused_with_its_reason(repo: Path, name: str, reason: str) -> None:
    for path in repo.glob("*.safetensors*"):
        path.unlink()
    (repo / name).write_bytes(b"x")
    with FakeHub({REPO: repo}) as hub, pytest.raises(HubError, match=reason):
        pull(hub)


def test_an_index_that_names_what_is_not_there_is_refused(repo: Path) -> None:
    (repo / SHARD_2).unlink()
    with FakeHub({REPO: repo}) as hub, pytest.raises(HubError, match=f"names '{SHARD_2}'"):
        pull(hub)


def test_a_full_disk_is_seen_before_the_transfer(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(repo)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with FakeHub({REPO: repo}) as hub:
        with pytest.raises(HubError, match=r"needs 1\.4 MB more .* 1\.0 MB free"):
            pull(hub)
        assert hub.bytes_sent(".safetensors") == hub.bytes_sent("index")


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


def test_an_unknown_repository_and_an_answer_that_is_no_listing(repo: Path) -> None:
    with FakeHub({REPO: repo}) as hub:
        with pytest.raises(HubError, match=r"404.*Check the name"):
            pull(hub, "mistralai/Nothing")
        hub.faults.refuse = 200
        with pytest.raises(HubError, match="not a model listing"):
            pull(hub)
