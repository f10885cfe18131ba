"""Which files of a repository make one checkpoint: one weight format, and what goes with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ostro.core.errors import HubError
from ostro.weights.hub.listing import Listing, RepoFile

HF_INDEX = "model.safetensors.index.json"
NATIVE_INDEX = "consolidated.safetensors.index.json"

# Executable when they are loaded, so they are never fetched.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")

_COMPANIONS = (
    "*.json", "tokenizer.model*", "*.jinja", "merges.txt", "vocab.txt", "SYSTEM_PROMPT*.txt",
    "README.md", "LICENSE*", "NOTICE*",
)  # fmt: skip


@dataclass(frozen=True)
class Selection:
    """What to fetch, companions first. `weights` is "hf" or "native"; `skipped` is everything else."""

    weights: str
    files: tuple[RepoFile, ...]
    skipped: tuple[RepoFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def describe(self) -> str:
        """One line for people: what was chosen and what was left."""
        weights = [file for file in self.files if file.path.endswith(".safetensors")]
        kind = "Hugging Face" if self.weights == "hf" else "native (consolidated)"
        line = f"Chose the {kind} weights: {_names(weights)}, {size_text(sum(f.size for f in weights))}."
        left = [file for file in self.skipped if _is_weights(file.path)]
        if left:
            line += f" Skipped {_names(left)}, {size_text(sum(f.size for f in left))}: the same weights once more, or"
            line += " a format that is not loaded."
        return line


def select(listing: Listing, read_json: Callable[[RepoFile], Any]) -> Selection:
    """Choose the Hugging Face shards where they are whole, else the native ones.

    `read_json` fetches a small file of the repository (a shard index). Raises HubError, with the reason, for a
    repository that holds no safetensors checkpoint.
    """
    for weights, config, index, pattern in (
        ("hf", "config.json", HF_INDEX, "model*.safetensors"),
        ("native", "params.json", NATIVE_INDEX, "consolidated*.safetensors"),
    ):
        shards = _shards(listing, index, pattern, read_json)
        if shards and listing.file(config) is not None:
            return _selection(listing, weights, shards)
    raise HubError(_why_not(listing))


def _shards(listing: Listing, index: str, pattern: str, read_json: Callable[[RepoFile], Any]) -> tuple[RepoFile, ...]:
    index_file = listing.file(index)
    if index_file is None:
        return tuple(file for file in listing.files if fnmatchcase(file.path, pattern))
    content = read_json(index_file)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise HubError(f"{index} of {listing.repo} has no 'weight_map' of file names.")
    shards = []
    for name in sorted(set(weight_map.values())):
        file = listing.file(name)
        if file is None or not name.endswith(".safetensors"):
            raise HubError(
                f"{index} of {listing.repo} names '{name}', which is not a safetensors file of the repository."
            )
        shards.append(file)
    return tuple(shards)


def _selection(listing: Listing, weights: str, shards: tuple[RepoFile, ...]) -> Selection:
    index = HF_INDEX if weights == "hf" else NATIVE_INDEX
    companions = [file for file in listing.files if file.path == index or _is_companion(file.path)]
    chosen = (*companions, *shards)
    return Selection(weights, chosen, tuple(file for file in listing.files if file not in chosen))


def _is_companion(path: str) -> bool:
    """Config, tokenizer, templates, licence: in the root only, and no other format's index."""
    named = any(fnmatchcase(path, pattern) for pattern in _COMPANIONS)
    return named and "/" not in path and not path.endswith(".index.json")


def _is_weights(path: str) -> bool:
    return path.endswith((".safetensors", ".gguf")) or _is_pickle(path)


def _is_pickle(path: str) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in PICKLES)


def _why_not(listing: Listing) -> str:
    repo, paths = listing.repo, [file.path for file in listing.files]
    pickles = [path for path in paths if _is_pickle(path)]
    if any(path.startswith("adapter_model") for path in paths):
        return f"{repo} holds an adapter, not a whole model; pull its base model."
    if any(path.endswith(".gguf") for path in paths):
        return f"{repo} holds GGUF files; Ostro pulls safetensors. Look for the repository it was converted from."
    if any(path.endswith(".safetensors") for path in paths):
        return (
            f"{repo} holds safetensors, but neither model*.safetensors with a config.json nor "
            "consolidated*.safetensors with a params.json."
        )
    if pickles:
        return (
            f"{repo} holds its weights as pickles only ({', '.join(pickles[:3])}). Loading a pickle can run any code, "
            "so Ostro refuses them. Look for a revision or a repository with safetensors."
        )
    return f"{repo} holds no weights: no safetensors file is in it."


def _names(files: list[RepoFile]) -> str:
    if len(files) <= 2:
        return " and ".join(file.path for file in files)
    return f"{files[0].path} … {files[-1].path} ({len(files)} files)"


def size_text(size: float) -> str:
    """Bytes for people, in decimal units as the hub shows them: 14.5 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} TB"
