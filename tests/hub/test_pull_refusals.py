"""What `pull_model` refuses, and what it keeps to itself: wrong bytes, hostile names, pickles, tokens."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from hub.fake_hub import FakeHub, Faults
from hub.pulling import REPO, SHARD_1, SHARD_2, SIZE, Watch, pull
from ostro.core.errors import DigestMismatchError, HubError
from ostro.weights.hub.endpoint import Endpoint
from ostro.weights.hub.listing import Listing, RepoFile
from ostro.weights.hub.transfer import Fetcher


@pytest.fixture(autouse=True)
def _home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")


@pytest.mark.parametrize("name", [SHARD_1, "config.json"])
def test_wrong_bytes_are_removed_and_both_digests_told(repo: Path, home: Path, name: str) -> None:
    with FakeHub({REPO: repo}, Faults(corrupt=True, only=name)) as hub:
        announced = next(f for f in hub.listing(REPO)["siblings"] if f["rfilename"] == name)  # type: ignore[attr-defined]  # the stand-in has any shape
        digest = announced["lfs"]["sha256"] if "lfs" in announced else announced["blobId"]
        with pytest.raises(DigestMismatchError) as caught:
            pull(hub)
    assert name in str(caught.value)
    assert digest in str(caught.value)
    assert str(caught.value).count("sha256:" if "lfs" in announced else "git-sha1:") == 2
    assert not list(home.rglob(f"{name}*"))


def test_a_file_of_another_size_is_not_taken(repo: Path, home: Path) -> None:
    with FakeHub({REPO: repo}) as hub:
        hub.listing(REPO)
        (repo / SHARD_1).write_bytes(b"x" * (SIZE + 1))
        with pytest.raises(HubError, match=f"another {SHARD_1} than the {SIZE} bytes announced"):
            pull(hub)
        assert hub.bytes_sent(SHARD_1) < SIZE


def test_a_stream_longer_than_announced_is_cut_off(tmp_path: Path) -> None:
    file = RepoFile("a.json", 5, "git-sha1:" + "0" * 40)
    sent: list[bytes] = []

    def endless() -> Iterator[bytes]:
        while len(sent) < 1000:
            sent.append(b"123")
            yield sent[-1]

    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, content=endless()))
    with httpx2.Client(transport=transport) as client:
        listing = Listing(REPO, "0" * 40, (file,))
        fetcher = Fetcher(client, listing, (Endpoint("http://hub.example"),), tmp_path, Watch())
        with pytest.raises(HubError, match=r"another a.json than the 5 bytes"):
            fetcher.fetch(file)
    assert len(sent) < 5


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
        shard = next(f for f in hub.listing(REPO)["siblings"] if f["rfilename"] == SHARD_1)  # type: ignore[attr-defined]  # the stand-in has any shape
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


def test_an_unknown_repository_and_an_answer_that_is_no_listing(repo: Path) -> None:
    with FakeHub({REPO: repo}) as hub:
        with pytest.raises(HubError, match=r"404.*Check the name"):
            pull(hub, "mistralai/Nothing")
        hub.faults.refuse = 200
        with pytest.raises(HubError, match="not a model listing"):
            pull(hub)
