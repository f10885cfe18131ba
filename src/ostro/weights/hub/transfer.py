"""Bringing one file: resumed where it broke off, from whichever endpoint still gives it, verified before it counts."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import httpx2

from ostro.core.errors import DigestMismatchError, HubError
from ostro.weights.hub.endpoint import Endpoint, RefusedError, UnavailableError
from ostro.weights.hub.listing import Hash, Listing, RepoFile, local_path

CHUNK = 1024 * 1024
MAX_WAIT_S = 30.0
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Progress(Protocol):
    """Who watches a pull. `advance` counts bytes that are now on disk; `reused` of them were there before."""

    def say(self, line: str) -> None: ...

    def begin(self, total: int) -> None: ...

    def advance(self, size: int, reused: bool) -> None: ...


@dataclass(frozen=True)
class Patience:
    """How often a broken transfer is taken up again.

    attempts: failures in a row, without one new byte between them, per endpoint. backoff_s: the first wait,
    doubled each time up to 30 s; a server's own Retry-After is honoured up to the same bound.
    """

    attempts: int = 5
    backoff_s: float = 0.5


@dataclass
class _Running:
    """The hash of what is in the part so far; begun anew when the part is."""

    hash: Hash


class Fetcher:
    """Brings files of one listing into one folder. Endpoints that fail go to the end of the line."""

    def __init__(
        self,
        client: httpx2.Client,
        listing: Listing,
        endpoints: tuple[Endpoint, ...],
        root: Path,
        progress: Progress,
        patience: Patience | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._listing = listing
        self._endpoints = list(endpoints)
        self._root = root
        self._progress = progress
        self._patience = patience or Patience()
        self._sleep = sleep
        self.transferred = 0

    @property
    def endpoint(self) -> Endpoint:
        """The one in use."""
        return self._endpoints[0]

    def fetch(self, file: RepoFile) -> Path:
        """The verified file under the root. Raises DigestMismatchError, HubError.

        Bytes go to `<name>.<digest>.part`; the name appears when they are whole and have the announced digest.
        """
        path = local_path(self._root, file.path)
        part = path.with_name(f"{path.name}.{file.digest.split(':')[1][:16]}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            # Left by a pull that was stopped: verified then, but perhaps for another commit.
            if hash_file(path, file) == file.digest:
                self._progress.advance(file.size, reused=True)
                return path
            path.unlink()
        with open_part(part) as sink:
            digest = self._fill(file, sink)
            sink.flush()
            os.fsync(sink.fileno())
        if digest != file.digest:
            part.unlink()
            raise DigestMismatchError(
                f"{file.path} from {self.endpoint.url} has the digest {digest}, but {file.digest} was announced. "
                "The file was removed. Pull again; if it happens again, do not use this endpoint."
            )
        part.replace(path)
        return path

    def _fill(self, file: RepoFile, sink: BinaryIO) -> str:
        """Append what is missing, over as many connections as it takes, and return the whole file's digest."""
        running = self._rehash(file, sink)
        failures, furthest = 0, sink.tell()
        while sink.tell() < file.size:
            try:
                self._receive(file, sink, running)
            except (UnavailableError, RefusedError) as error:
                # Not "bytes came", but "further than ever": a server that cannot resume would loop for good.
                failures = 1 if sink.tell() > furthest else failures + 1
                furthest = max(furthest, sink.tell())
                self._give_way(error, failures)
        return file.digest_of(running.hash)

    def _rehash(self, file: RepoFile, sink: BinaryIO) -> _Running:
        """Hash what an earlier pull left in the part; too long a part is emptied."""
        running = _Running(file.new_hash())
        if os.fstat(sink.fileno()).st_size > file.size:
            sink.truncate(0)
        sink.seek(0)
        while chunk := sink.read(CHUNK):
            running.hash.update(chunk)
            self._progress.advance(len(chunk), reused=True)
        return running

    def _receive(self, file: RepoFile, sink: BinaryIO, running: _Running) -> None:
        """Append one response, to its end or to where it breaks off."""
        offset = sink.tell()
        with self.endpoint.open_file(self._client, self._listing, file.path, offset) as response:
            if not self._continues(response, file, offset):
                self._progress.advance(-offset, reused=False)
                sink.seek(0)
                sink.truncate()
                running.hash = file.new_hash()
            # As it comes, not in blocks of a fixed size: what a broken connection brought is kept to the last byte.
            for chunk in response.iter_bytes():
                if sink.tell() + len(chunk) > file.size:
                    raise self._wrong_size(file)
                sink.write(chunk)
                running.hash.update(chunk)
                self.transferred += len(chunk)
                self._progress.advance(len(chunk), reused=False)
        if sink.tell() < file.size:
            raise UnavailableError(f"{self.endpoint.url} ended {file.path} at byte {sink.tell()} of {file.size}.")

    def _continues(self, response: httpx2.Response, file: RepoFile, offset: int) -> bool:
        """Whether the response goes on at `offset`; a server that ignores ranges answers 200 with everything."""
        if response.status_code == 200:
            length = response.headers.get("Content-Length", str(file.size))
            if length != str(file.size) and "Content-Encoding" not in response.headers:
                raise self._wrong_size(file)
            if offset:
                self._progress.say(f"{self.endpoint.url} cannot resume; {file.path} starts anew.")
            return not offset
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if response.status_code != 206 or match is None or match[3] not in ("*", str(file.size)):
            raise self._wrong_size(file)
        if int(match[1]) != offset:
            raise RefusedError(f"{self.endpoint.url} was asked for {file.path} from byte {offset}, sent {match[0]}.")
        return True

    def _wrong_size(self, file: RepoFile) -> HubError:
        return RefusedError(f"{self.endpoint.url} has another {file.path} than the {file.size} bytes announced.")

    def _give_way(self, error: UnavailableError | RefusedError, failures: int) -> None:
        """After a failure: drop the endpoint if it refused, else put it last; wait; or give up."""
        if isinstance(error, RefusedError):
            if len(self._endpoints) == 1:
                raise error
            self._endpoints.pop(0)
        else:
            self._endpoints.append(self._endpoints.pop(0))
        if failures >= self._patience.attempts * len(self._endpoints):
            raise HubError(f"{error} Gave up after {failures} attempts; pull again to go on from here.") from error
        rounds = (failures - 1) // len(self._endpoints)
        fresh = len(self._endpoints) > 1 and rounds == 0
        wait = 0.0 if fresh else min(MAX_WAIT_S, self._patience.backoff_s * 2**rounds)
        if isinstance(error, UnavailableError) and error.retry_after is not None and not fresh:
            wait = min(MAX_WAIT_S, max(wait, error.retry_after))
        self._progress.say(f"{error} Going on with {self.endpoint.url}" + (f" in {wait:.1f} s." if wait else "."))
        self._sleep(wait)


def open_part(part: Path) -> BinaryIO:
    """Open for reading and appending, without following a symlink that somebody put there."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.fdopen(os.open(part, flags, 0o644), "r+b")
    except OSError as error:
        raise HubError(f"{part} cannot be written: {error.strerror}.") from error


def hash_file(path: Path, file: RepoFile) -> str:
    """The digest of `path` in the kind that `file` announces."""
    hash_ = file.new_hash()
    with path.open("rb") as source:
        while chunk := source.read(CHUNK):
            hash_.update(chunk)
    return file.digest_of(hash_)
