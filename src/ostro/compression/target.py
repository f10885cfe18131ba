"""The folder that a quantised checkpoint is written to: all of it or nothing, and at no other folder's cost."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ostro.core.errors import ConfigError

# What `ostro quantize` wrote has both; only that may be replaced.
OURS = ("quantization.json", "config.json")


def check_target(source: Path, out: Path, *, force: bool) -> Path:
    """The absolute path of the folder. Raises ConfigError where a checkpoint may not be written there.

    force: a folder that this command wrote before may be replaced.
    """
    target = out.absolute()
    target = target.parent.resolve() / target.name if target.name not in ("", "..") else target.resolve()
    if target.is_symlink():
        raise ConfigError(f"{out} is a link; give the folder that it points to.", param="out")
    real, origin = target.resolve(), source.resolve()
    if real == origin:
        raise ConfigError("The quantised checkpoint cannot replace the one it is made from; give another folder.")
    if real in origin.parents:
        raise ConfigError(f"{out} holds the checkpoint that is to be quantised; give another folder.", param="out")
    if not target.exists():
        return target
    if not target.is_dir():
        raise ConfigError(f"{out} is a file; give a folder.", param="out")
    entries = list(target.iterdir())
    if not entries:
        return target
    if not force:
        raise ConfigError(f"{out} is there already and not empty. Give another folder, or --force to replace it.")
    if any(not (target / name).is_file() for name in OURS) or any(entry.is_dir() for entry in entries):
        raise ConfigError(
            f"{out} is no folder that `ostro quantize` wrote, and --force replaces no other. Give another folder, or "
            "remove this one yourself.",
            param="out",
        )
    return target


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """An empty folder beside the target, which takes its place when all went well and is gone when not."""
    mark = secrets.token_hex(4)
    unfinished, old = (target.with_name(f".{target.name}.{mark}.{kind}") for kind in ("part", "old"))
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        if target.exists():
            target.rename(old)
        try:
            unfinished.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
