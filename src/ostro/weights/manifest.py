"""The record that a completed pull leaves in its folder, and the folders that have one. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ostro.core.paths import models_folder

MANIFEST = ".ostro-pull.json"


class PulledFile(msgspec.Struct, frozen=True, kw_only=True):
    """One verified file. `digest` is "sha256:…", or "git-sha1:…" (the blob id git would give it)."""

    path: str
    size: int
    digest: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What was pulled. `weights` is "hf" or "native"; `endpoint` is where the bytes came from."""

    repo: str
    revision: str
    commit: str
    weights: str
    endpoint: str
    pulled_at: str
    files: list[PulledFile]
    version: int = 1

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def read_manifest(folder: Path) -> Manifest | None:
    """The folder's record; None where no pull was completed (or its record cannot be read)."""
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError):
        return None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the record last, whole or not at all."""
    unfinished = folder / f"{MANIFEST}.part"
    with unfinished.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2))
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(folder / MANIFEST)


def is_complete(folder: Path, manifest: Manifest) -> bool:
    """Whether every recorded file is there with its size. Digests were checked when they were pulled."""
    for file in manifest.files:
        path = folder / file.path
        if not path.is_file() or path.stat().st_size != file.size:
            return False
    return True


def folder_of(repo: str) -> Path:
    """Where `ostro pull` puts a repository: `OSTRO_HOME/models/<owner>--<name>`."""
    return models_folder() / repo.replace("/", "--")


def pulled_models() -> Iterator[tuple[Path, Manifest]]:
    """The completed pulls under `OSTRO_HOME/models`."""
    root = models_folder()
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        manifest = read_manifest(folder) if folder.is_dir() and not folder.name.startswith(".") else None
        if manifest is not None:
            yield folder, manifest
