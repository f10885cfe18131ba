"""Where Ostro keeps things."""

from __future__ import annotations

import os
from pathlib import Path


def ostro_home() -> Path:
    """`OSTRO_HOME`, or `~/.ostro`. Not created here."""
    return Path(os.environ.get("OSTRO_HOME") or Path.home() / ".ostro").expanduser()


def models_folder() -> Path:
    """Where `ostro pull` puts checkpoints."""
    return ostro_home() / "models"


def store_file() -> Path:
    """Where a server keeps stored answers, files and batch jobs."""
    return ostro_home() / "store.db"


def embedded_models() -> dict[str, Path]:
    """Checkpoints shipped inside the package, by name."""
    root = Path(__file__).resolve().parent.parent / "data" / "models"
    if not root.is_dir():
        return {}
    return {path.name: path for path in sorted(root.iterdir()) if (path / "config.json").is_file()}
