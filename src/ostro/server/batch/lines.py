"""The requests of a job: read line by line, checked before the job exists, kept apart from the files they came in."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from ostro.core.errors import InvalidRequestError, StorageError
from ostro.storage.database import Database

MAX_REQUESTS = 100_000
MAX_LINE_BYTES = 16 * 1024 * 1024
_MAX_CUSTOM_ID = 512
_ORPHAN_S = 3600.0
_BOM = b"\xef\xbb\xbf"


class RequestLine(msgspec.Struct, frozen=True):
    """One line. body stays as it came until it is run; OpenAI's lines say method and url as well."""

    body: msgspec.Raw
    custom_id: str | None = None
    method: str | None = None
    url: str | None = None

    def fields(self) -> dict[str, Any]:
        """The body as an object, which `check` looks at. Raises ValueError, RecursionError where it is none."""
        return msgspec.json.decode(self.body, type=dict[str, Any])


_DECODER = msgspec.json.Decoder(RequestLine)


class InvalidLineError(InvalidRequestError):
    """A line that is no request. `line` counts from 1, blank ones too."""

    def __init__(self, message: str, *, line: int, name: str, code: str, param: str) -> None:
        super().__init__(f"{name}, line {line}: {message}", param=param, code=code)
        self.line = line


def read_requests(paths: Sequence[Path]) -> Iterator[RequestLine]:
    """The requests of checked files, in order. Blocking."""
    for path in paths:
        with path.open("rb") as file:
            for line in file:
                text = line.removeprefix(_BOM).strip()
                if text:
                    yield _DECODER.decode(text)


def check(files: Iterable[tuple[str, Path]], *, endpoint: str, strict: bool, param: str) -> int:
    """How many requests there are in files of (name to show, path). Blocking.

    strict: every line must say custom_id, method and url, as OpenAI wants it; otherwise those that it says are held
    to the same. param: the field that the files came from.
    Raises InvalidLineError for the first line that is no request of `endpoint`, or whose custom_id was seen before;
    InvalidRequestError for none, or too many. What a body says is not looked at: that is the endpoint's business, and
    an error there concerns one line.
    """
    seen: set[str] = set()
    count = 0
    for name, path in files:
        for number, text in _lines(path, name, param):
            code, message = _fault(text, endpoint, strict, seen)
            if message:
                raise InvalidLineError(message, line=number, name=name, code=code, param=param)
            count += 1
            if count > MAX_REQUESTS:
                raise InvalidRequestError(
                    f"A job takes at most {MAX_REQUESTS} requests. Split it.", param=param, code="too_many_requests"
                )
    if not count:
        raise InvalidRequestError("The job has no requests.", param=param, code="empty_file")
    return count


def _lines(path: Path, name: str, param: str) -> Iterator[tuple[int, bytes]]:
    number = 0
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                message = f"it is over {MAX_LINE_BYTES} bytes long."
                raise InvalidLineError(message, line=number, name=name, code="line_too_long", param=param)
            text = line.removeprefix(_BOM).strip()
            if text:
                yield number, text


def _fault(text: bytes, endpoint: str, strict: bool, seen: set[str]) -> tuple[str, str]:
    """(code, what is wrong), both empty for a good line, whose custom_id is then among the seen ones."""
    try:
        line = _DECODER.decode(text)
        if not bytes(line.body).lstrip().startswith(b"{"):
            return "invalid_request", "'body' must be an object."
        line.fields()  # what is raw so far may hold anything
    except msgspec.ValidationError as error:
        return "invalid_request", f"it is no request: {error}."
    except ValueError as error:
        return "invalid_json_line", f"it is not valid JSON: {error}."
    except RecursionError:
        return "invalid_json_line", "it is nested too deeply."
    if line.custom_id is None and strict:
        return "missing_required_parameter", "'custom_id' is missing."
    if line.custom_id is not None:
        if not line.custom_id or len(line.custom_id) > _MAX_CUSTOM_ID:
            return "invalid_custom_id", f"'custom_id' must be 1 to {_MAX_CUSTOM_ID} characters long."
        if line.custom_id in seen:
            return "duplicate_custom_id", f"the custom_id {line.custom_id!r} was used on a line before."
        seen.add(line.custom_id)
    for field, wanted in (("method", "POST"), ("url", endpoint)):
        value = getattr(line, field)
        if value != wanted and (strict or value is not None):
            code = "missing_required_parameter" if value is None else f"invalid_{field}"
            return (
                code,
                f"'{field}' must be {wanted!r}, not {value!r}." if value is not None else f"'{field}' is missing.",
            )
    return "", ""


class Spool:
    """A folder a job with its own copies of its input: a file may be deleted while a job still reads it. Blocking."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep_files(self, job_id: str, paths: Sequence[Path]) -> None:
        """Links, not copies: files of the store never change.

        Raises StorageError, and InvalidRequestError for a file that is gone.
        """
        folder = self._folder(job_id)
        try:
            folder.mkdir(mode=0o700)
            for number, path in enumerate(paths):
                os.link(path, folder / f"{number:04}.jsonl")
        except FileNotFoundError:
            raise InvalidRequestError("An input file was deleted just now. Upload it again.") from None
        except OSError as error:
            raise StorageError(f"The store could not keep a job's input: {error.strerror or error}.") from error

    def keep_requests(self, job_id: str, requests: Iterable[Any]) -> None:
        """Requests that came with the job, one JSON object each. Raises StorageError."""
        folder = self._folder(job_id)
        try:
            folder.mkdir(mode=0o700)
            with (folder / "0000.jsonl").open("xb") as file:
                for request in requests:
                    file.write(msgspec.json.encode(request) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"The store could not keep a job's input: {error.strerror or error}.") from error

    def paths(self, job_id: str) -> list[Path]:
        return sorted(self._folder(job_id).glob("*.jsonl"))

    def remove(self, job_id: str) -> None:
        shutil.rmtree(self._folder(job_id), ignore_errors=True)

    def sweep(self, unfinished: set[str]) -> None:
        """Remove what a crash left of jobs that are over, or never were."""
        for folder in self._database.folder("jobs").iterdir():
            with suppress(FileNotFoundError):  # another server sweeps the same folder
                if folder.name not in unfinished and folder.stat().st_mtime < time.time() - _ORPHAN_S:
                    shutil.rmtree(folder, ignore_errors=True)

    def _folder(self, job_id: str) -> Path:
        return self._database.folder("jobs") / job_id
