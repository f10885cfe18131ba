"""A whole pull: choose, fetch, verify, record. What is not complete never has the model's name."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from ostro.core.errors import HubError
from ostro.weights.catalog import find_entry
from ostro.weights.hub.endpoint import configured_endpoints, new_client
from ostro.weights.hub.listing import RepoFile
from ostro.weights.hub.mirrors import Sources, find_sources
from ostro.weights.hub.selection import Selection, select, size_text
from ostro.weights.hub.transfer import Fetcher, Patience, Progress, hash_file
from ostro.weights.manifest import (
    MANIFEST,
    Manifest,
    PulledFile,
    folder_of,
    is_complete,
    read_manifest,
    write_manifest,
)

# Left free on the disk, so that a pull never fills it to the last byte.
DISK_RESERVE = 256 * 1024 * 1024


@dataclass(frozen=True)
class PullRequest:
    """What to pull and where to.

    name: a short name or owner/name. output: the model goes to `output/<name>`; None is the place where every
    command finds it by name. revision: branch, tag or commit; None is the catalogue's.
    mirrors: base URLs tried beside the configured hub and OSTRO_MIRRORS.
    """

    name: str
    output: Path | None = None
    revision: str | None = None
    mirrors: tuple[str, ...] = ()
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True)
class PullResult:
    """Where the model is now. `transferred` is the bytes that crossed the network for its files."""

    path: Path
    manifest: Manifest
    transferred: int
    skipped: tuple[str, ...]


def pull_model(request: PullRequest, progress: Progress) -> PullResult:
    """Bring a checkpoint to this machine; a second pull of the same commit transfers nothing.

    Raises ModelNotFoundError for an unknown name, HubError for a hub that cannot or will not give it,
    DigestMismatchError for bytes that are not the announced ones. What was fetched until then is kept and the
    next pull goes on from there.
    """
    entry = find_entry(request.name)
    revision = request.revision or entry.revision
    target = _target(request, entry.repo)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(target, progress):
        done = read_manifest(target)
        if done is not None and done.repo == entry.repo and is_complete(target, done) and done.commit == revision:
            return _nothing_to_do(target, done, progress)
        sources = _sources(request, entry.repo, revision, target, done)
        if done is not None and done.commit == sources.listing.commit and is_complete(target, done):
            return _nothing_to_do(target, done, progress)
        for note in sources.notes:
            progress.say(note)
        return _Pull(sources, target, revision, progress, request.patience).run()


def _target(request: PullRequest, repo: str) -> Path:
    target = folder_of(repo) if request.output is None else request.output / request.name.replace("/", "--")
    target = target.expanduser().absolute()
    if target.is_symlink():
        raise HubError(f"{target} is a symbolic link; remove it or choose another --output.")
    if target.exists() and read_manifest(target) is None and (not target.is_dir() or any(target.iterdir())):
        raise HubError(f"{target} is there already and no pull made it; move it away or choose another --output.")
    return target


@contextmanager
def _only_one(target: Path, progress: Progress) -> Iterator[None]:
    """Let one process at a time pull into `target`. The system drops the lock of a process that dies."""
    with (target.parent / f".{target.name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"Another pull into {target} is running; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sources(request: PullRequest, repo: str, revision: str, target: Path, done: Manifest | None) -> Sources:
    try:
        endpoints = configured_endpoints(request.mirrors)
        return find_sources(endpoints, repo, revision, backoff_s=request.patience.backoff_s)
    except HubError as error:
        if done is None:
            raise
        raise HubError(f"{error} What was pulled before, commit {done.commit[:12]}, is still in {target}.") from error


def _nothing_to_do(target: Path, manifest: Manifest, progress: Progress) -> PullResult:
    progress.say(f"{manifest.repo} at {manifest.commit[:12]} is already in {target}; nothing to transfer.")
    return PullResult(target, manifest, 0, ())


class _Pull:
    """One pull into a hidden folder beside the target, which takes the target's name when all is verified."""

    def __init__(self, sources: Sources, target: Path, revision: str, progress: Progress, patience: Patience) -> None:
        self._sources = sources
        self._listing = sources.listing
        self._target = target
        self._revision = revision
        self._progress = progress
        self._patience = patience
        self._staging = target.parent / f".{target.name}.pulling"

    def run(self) -> PullResult:
        if self._staging.is_symlink():
            raise HubError(f"{self._staging} is a symbolic link; remove it.")
        self._staging.mkdir(exist_ok=True)
        with new_client() as client:
            fetcher = self._fetcher(client, _Silent(self._progress))
            selection = select(self._listing, lambda file: self._read_json(fetcher, file))
            self._progress.say(selection.describe())
            self._keep_only(selection)
            self._take_over(selection)
            self._check_space(selection)
            self._progress.begin(selection.size)
            early = fetcher.transferred
            fetcher = self._fetcher(client, self._progress)
            for file in selection.files:
                fetcher.fetch(file)
        manifest = self._manifest(selection, fetcher.endpoint.url)
        write_manifest(self._staging, manifest)
        self._publish()
        skipped = tuple(file.path for file in selection.skipped)
        return PullResult(self._target, manifest, early + fetcher.transferred, skipped)

    def _fetcher(self, client: httpx2.Client, progress: Progress) -> Fetcher:
        endpoints = self._sources.endpoints
        return Fetcher(client, self._listing, endpoints, self._staging, progress, self._patience)

    def _read_json(self, fetcher: Fetcher, file: RepoFile) -> Any:
        path = fetcher.fetch(file)
        try:
            return msgspec.json.decode(path.read_bytes())
        except msgspec.DecodeError as error:
            raise HubError(f"{file.path} of {self._listing.repo} is not JSON ({error}).") from error

    def _keep_only(self, selection: Selection) -> None:
        """Remove what an earlier, stopped pull of another commit left."""
        wanted = {file.path for file in selection.files}
        digests = {file.digest.split(":")[1][:16] for file in selection.files}
        for path in [path for path in self._staging.rglob("*") if path.is_symlink() or not path.is_dir()]:
            name = path.relative_to(self._staging).as_posix()
            if name not in wanted and not (name.endswith(".part") and name.split(".")[-2] in digests):
                path.unlink()

    def _take_over(self, selection: Selection) -> None:
        """Link what the folder pulled before has: files that did not change, and files that others put there."""
        old = read_manifest(self._target)
        if old is None:
            return
        pulled = {file.path: file.digest for file in old.files} | {MANIFEST: ""}
        for file in selection.files:
            source = self._target / file.path
            if pulled.get(file.path) == file.digest and source.is_file() and hash_file(source, file) == file.digest:
                _link(source, self._staging / file.path)
        for source in [path for path in self._target.rglob("*") if path.is_file()]:
            name = source.relative_to(self._target).as_posix()
            if name not in pulled:
                _link(source, self._staging / name)

    def _check_space(self, selection: Selection) -> None:
        here = sum(path.stat().st_size for path in self._staging.rglob("*") if path.is_file())
        missing = selection.size - here
        free = shutil.disk_usage(self._staging).free
        if missing > 0 and missing + DISK_RESERVE > free:
            raise HubError(
                f"{self._listing.repo} needs {size_text(missing)} more on the disk of {self._target.parent}, which has "
                f"{size_text(free)} free. Free some, or choose another disk with --output or OSTRO_HOME."
            )

    def _manifest(self, selection: Selection, endpoint: str) -> Manifest:
        return Manifest(
            repo=self._listing.repo,
            revision=self._revision,
            commit=self._listing.commit,
            weights=selection.weights,
            endpoint=endpoint,
            pulled_at=datetime.now(UTC).isoformat(timespec="seconds"),
            files=[PulledFile(path=f.path, size=f.size, digest=f.digest) for f in selection.files],
        )

    def _publish(self) -> None:
        """Give the folder its name. An older commit is moved aside first: who has its files open keeps them."""
        aside = self._target.parent / f".{self._target.name}.old"
        shutil.rmtree(aside, ignore_errors=True)
        if self._target.exists():
            self._target.rename(aside)
        self._staging.rename(self._target)
        shutil.rmtree(aside, ignore_errors=True)


def _link(source: Path, link: Path) -> None:
    if link.exists():
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        link.hardlink_to(source)
    except OSError:  # a file system without hard links
        shutil.copy2(source, link)


@dataclass(frozen=True)
class _Silent:
    """Passes on what is said, not what is counted: the shard index is fetched before the total is known."""

    inner: Progress

    def say(self, line: str) -> None:
        self.inner.say(line)

    def begin(self, total: int) -> None: ...

    def advance(self, size: int, reused: bool) -> None: ...
