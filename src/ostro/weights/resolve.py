"""From what a user calls a model to its checkpoint folder. Torch-free and light."""

from __future__ import annotations

from pathlib import Path

from ostro.core.errors import ModelNotFoundError
from ostro.core.paths import embedded_models
from ostro.weights.catalog import close_names, lookup
from ostro.weights.manifest import folder_of, is_complete, read_manifest


def resolve_model(name_or_path: str | Path) -> Path:
    """The folder of an embedded model, a checkpoint folder or GGUF file, or a pulled short name or owner/name, in that
    order.

    Raises ModelNotFoundError, which tells the command that would fetch the model.
    """
    name = str(name_or_path)
    embedded = embedded_models().get(name)
    if embedded is not None:
        return embedded
    path = Path(name).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path
    if path.is_file():
        raise ModelNotFoundError(
            f"{path} is a file, but not a GGUF one (.gguf); a checkpoint is a folder with its config, weights and "
            "tokenizer."
        )
    entry = lookup(name)
    if entry is not None:
        return _pulled(name, entry.repo)
    if "/" in name:
        raise ModelNotFoundError(f"There is no folder {path}.")
    raise ModelNotFoundError(f"There is no folder and no model named '{name}'.{close_names(name)}")


def _pulled(name: str, repo: str) -> Path:
    folder = folder_of(repo)
    manifest = read_manifest(folder)
    if manifest is None:
        raise ModelNotFoundError(f"'{name}' is not on this machine. Fetch it with: ostro pull {name}")
    if not is_complete(folder, manifest):
        raise ModelNotFoundError(f"{folder} lacks files that were pulled. Fetch them again with: ostro pull {name}")
    return folder
