"""What a repository holds at one commit, as the hub's API tells it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import msgspec

from ostro.core.errors import HubError

COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_NAME = 255


class Hash(Protocol):
    """What hashlib's objects do."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


@dataclass(frozen=True)
class RepoFile:
    """One file. `digest` is "sha256:…" of its bytes, or "git-sha1:…", the id git gives it as a blob."""

    path: str
    size: int
    digest: str

    def new_hash(self) -> Hash:
        """A running hash of this file's kind, fed with whatever precedes the content."""
        if self.digest.startswith("sha256:"):
            return hashlib.sha256()
        # Git names a blob by the SHA-1 of a header and the content; the hub announces no other digest for small files.
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)

    def digest_of(self, hash_: Hash) -> str:
        """The finished hash in the form of `digest`."""
        return f"{self.digest.split(':')[0]}:{hash_.hexdigest()}"


@dataclass(frozen=True)
class Listing:
    """A repository at one commit."""

    repo: str
    commit: str
    files: tuple[RepoFile, ...]

    def file(self, path: str) -> RepoFile | None:
        return next((file for file in self.files if file.path == path), None)


class _Lfs(msgspec.Struct):
    size: int
    sha256: str | None = None
    oid: str | None = None


class _Sibling(msgspec.Struct):
    rfilename: str
    size: int | None = None
    blobId: str | None = None
    lfs: _Lfs | None = None


class _Info(msgspec.Struct):
    sha: str
    siblings: list[_Sibling]


def parse_listing(repo: str, body: bytes) -> Listing:
    """The answer of `GET /api/models/{repo}/revision/{revision}?blobs=true` -> Listing.

    Raises HubError for an answer that is not one, for a file name that would leave the folder and for a file
    without a digest.
    """
    try:
        info = msgspec.json.decode(body, type=_Info)
    except msgspec.DecodeError as error:
        raise HubError(f"The answer about {repo} is not a model listing ({error}).") from error
    if not COMMIT.fullmatch(info.sha):
        raise HubError(f"The answer about {repo} names no commit (sha is {info.sha[:80]!r}).")
    files = [_repo_file(repo, sibling) for sibling in info.siblings]
    if len({file.path for file in files}) != len(files):
        raise HubError(f"{repo} lists the same file twice; it is refused.")
    return Listing(repo, info.sha, tuple(files))


def _repo_file(repo: str, sibling: _Sibling) -> RepoFile:
    check_name(repo, sibling.rfilename)
    if sibling.lfs is not None:
        sha256 = (sibling.lfs.sha256 or sibling.lfs.oid or "").removeprefix("sha256:")
        if _SHA256.fullmatch(sha256) and sibling.lfs.size >= 0:
            return RepoFile(sibling.rfilename, sibling.lfs.size, f"sha256:{sha256}")
    elif sibling.size is not None and sibling.size >= 0 and COMMIT.fullmatch(sibling.blobId or ""):
        return RepoFile(sibling.rfilename, sibling.size, f"git-sha1:{sibling.blobId}")
    raise HubError(f"{repo} announces no size and digest for '{sibling.rfilename}': it could not be verified.")


def check_name(repo: str, name: str) -> None:
    """Raise HubError unless `name` is a plain relative path: no root, no "..", no backslash, no control character."""
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") and len(part) <= MAX_NAME and part.isprintable() for part in parts)
    if not plain or "\\" in name or ":" in parts[0] or PurePosixPath(name).is_absolute():
        raise HubError(f"{repo} lists a file named {name!r}, which would leave the model's folder; it is refused.")


def local_path(root: Path, name: str) -> Path:
    """Where file `name` lies under `root`. Raises HubError if a symlink on the way leads out of it."""
    path = root / name
    inside = path.parent.resolve().is_relative_to(root.resolve())
    if not inside or path.is_symlink():
        raise HubError(f"{path} leads out of {root} through a symbolic link; remove the link and pull again.")
    return path
