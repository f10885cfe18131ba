"""A hub on loopback: folders served as repositories, over real sockets, with faults on demand.

It speaks the part of the hub's API that a pull needs: `GET /api/models/{repo}/revision/{revision}?blobs=true` and
`GET /{repo}/resolve/{commit}/{path}`, with ranges, redirects to a CDN and tokens.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

CHUNK = 64 * 1024


@dataclass
class Faults:
    """What goes wrong. Byte counts are of one response's body; file faults concern the names in `files`."""

    break_after: int | None = None  # close the connection after so many bytes …
    breaks: int = 1_000_000  # … so many times
    only: str = ""  # file faults only for paths that hold this
    ignore_range: bool = False
    corrupt: bool = False  # flip one bit of each chunk
    delay_s: float = 0.0  # before answering
    chunk_delay_s: float = 0.0  # before each 64 KiB of a file
    token: str | None = None  # answer 401 without it
    refuse: int | None = None  # answer every request with this status
    refuse_times: int = 1_000_000
    retry_after: int | None = None  # told with a refusal
    redirect: str | None = None  # send file requests to this hub's /cdn


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    path: str
    headers: Mapping[str, str]
    range_start: int | None


@dataclass
class FakeHub:
    """`with FakeHub({"owner/name": folder}) as hub:` serves at `hub.url`.

    extra: sibling entries to list beside the real files (hostile names). commit: the id to claim, made from the
    digests if None.
    """

    repos: Mapping[str, Path]
    faults: Faults = field(default_factory=Faults)
    extra: tuple[Mapping[str, object], ...] = ()
    commit: str | None = None
    lfs_from: int = 1000  # files of this size on are LFS files
    seen: list[Seen] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)  # path -> body bytes handed to the socket

    def __enter__(self) -> FakeHub:
        self._listings: dict[str, dict[str, object]] = {}
        self._lock = threading.Lock()
        hub = self

        class Handler(_Handler):
            fake = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def forget(self) -> None:
        """Drop what was seen, sent and listed: for after a change of files or faults."""
        with self._lock:
            self.seen.clear()
            self.sent.clear()
            self._listings.clear()

    def file_requests(self, path: str = "") -> list[Seen]:
        """Requests for files (whose name holds `path`), not for listings."""
        with self._lock:
            return [seen for seen in self.seen if not seen.path.startswith("/api/") and path in seen.path]

    def bytes_sent(self, path: str = "") -> int:
        with self._lock:
            return sum(size for name, size in self.sent.items() if path in name)

    def listing(self, repo: str) -> dict[str, object]:
        with self._lock:
            if repo not in self._listings:
                self._listings[repo] = self._make_listing(self.repos[repo])
            return self._listings[repo]

    def _make_listing(self, folder: Path) -> dict[str, object]:
        siblings: list[dict[str, object]] = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            size = path.stat().st_size
            entry: dict[str, object] = {"rfilename": path.relative_to(folder).as_posix(), "size": size}
            if size >= self.lfs_from:
                with path.open("rb") as file:
                    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                entry["blobId"] = hashlib.sha1(sha256.encode()).hexdigest()  # the pointer's, not the file's
                entry["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 134}
            else:
                entry["blobId"] = hashlib.sha1(b"blob %d\0" % size + path.read_bytes()).hexdigest()
            siblings.append(entry)
        commit = self.commit or hashlib.sha1(json.dumps(siblings).encode()).hexdigest()
        return {"id": "a/b", "sha": commit, "gated": False, "siblings": [*siblings, *self.extra]}


class _Handler(BaseHTTPRequestHandler):
    fake: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None: ...

    def do_GET(self) -> None:
        faults = self.fake.faults
        header = self.headers.get("Range", "")
        start = int(header.removeprefix("bytes=").rstrip("-")) if header else None
        with self.fake._lock:
            self.fake.seen.append(Seen(self.path, dict(self.headers), start))
        time.sleep(faults.delay_s)
        if faults.refuse is not None and faults.refuse_times > 0:
            faults.refuse_times -= 1
            return self._answer(faults.refuse, b"no")
        if faults.token is not None and self.headers.get("Authorization") != f"Bearer {faults.token}":
            return self._answer(401, b'{"error": "gated"}')
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"] and parts[4:5] == ["revision"]:
            return self._send_listing("/".join(parts[2:4]))
        if parts[0] == "cdn":
            return self._send_file("/".join(parts[1:3]), "/".join(parts[3:]), start)
        if parts[2:3] == ["resolve"]:
            return self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), start)
        return self._answer(404, b"no such page")

    def _send_listing(self, repo: str) -> None:
        if repo not in self.fake.repos:
            return self._answer(404, b'{"error": "Repository not found"}')
        return self._answer(200, json.dumps(self.fake.listing(repo)).encode())

    def _resolve(self, repo: str, commit: str, name: str, start: int | None) -> None:
        if repo not in self.fake.repos or commit != self.fake.listing(repo)["sha"]:
            return self._answer(404, b"no such revision")
        if self.fake.faults.redirect is not None:
            self.send_response(302)
            self.send_header("Location", f"{self.fake.faults.redirect}/cdn/{repo}/{name}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        return self._send_file(repo, name, start)

    def _send_file(self, repo: str, name: str, start: int | None) -> None:
        path = self.fake.repos[repo] / name
        faults = self.fake.faults
        concerned = faults.only in name
        if not path.is_file():
            return self._answer(404, b"no such file")
        size, offset = path.stat().st_size, 0
        if start is not None and not (faults.ignore_range and concerned):
            offset = start
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {offset}-{size - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(size - offset))
        self.end_headers()
        left = self._room(size - offset) if concerned else size - offset
        with path.open("rb") as file:
            file.seek(offset)
            self._send_body(file.read(min(CHUNK, left)), file, name, left, concerned)
        return None

    def _room(self, size: int) -> int:
        faults = self.fake.faults
        if faults.break_after is None or faults.breaks <= 0 or size <= faults.break_after:
            return size
        faults.breaks -= 1
        self.close_connection = True
        return faults.break_after

    def _send_body(self, chunk: bytes, file, name: str, left: int, concerned: bool) -> None:
        faults = self.fake.faults
        while chunk:
            time.sleep(faults.chunk_delay_s if concerned else 0)
            left -= len(chunk)
            if faults.corrupt and concerned:
                chunk = bytes([chunk[0] ^ 1]) + chunk[1:]
            try:
                self.wfile.write(chunk)
            except OSError:  # the puller was killed
                self.close_connection = True
                return
            with self.fake._lock:
                self.fake.sent[name] = self.fake.sent.get(name, 0) + len(chunk)
            chunk = file.read(min(CHUNK, left))

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status >= 400 and self.fake.faults.retry_after is not None:
            self.send_header("Retry-After", str(self.fake.faults.retry_after))
        self.end_headers()
        self.wfile.write(body)
