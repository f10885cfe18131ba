"""Short names of checkpoints on the hub. Torch-free."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from ostro.core.errors import ModelNotFoundError
from ostro.core.paths import embedded_models

# owner/name as the hub allows it: no leading dot, no "..", no "--".
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")

APACHE = "Apache-2.0"
MRL = "Mistral Research License (no commercial use)"


@dataclass(frozen=True)
class CatalogEntry:
    """A checkpoint that has a short name.

    gated: the hub asks to accept terms on the model's page, and then wants a token.
    """

    name: str
    repo: str
    licence: str = APACHE
    gated: bool = False
    note: str = ""
    revision: str = "main"


_ENTRIES = (
    CatalogEntry("mistral-7b-v0.1", "mistralai/Mistral-7B-v0.1", note="base; sliding window of 4096"),
    CatalogEntry("mistral-7b-v0.3", "mistralai/Mistral-7B-v0.3", note="base"),
    CatalogEntry("mistral-7b-instruct-v0.1", "mistralai/Mistral-7B-Instruct-v0.1"),
    CatalogEntry("mistral-7b-instruct-v0.2", "mistralai/Mistral-7B-Instruct-v0.2"),
    CatalogEntry("mistral-7b-instruct-v0.3", "mistralai/Mistral-7B-Instruct-v0.3"),
    CatalogEntry("mistral-nemo", "mistralai/Mistral-Nemo-Instruct-2407", note="12B, instruct"),
    CatalogEntry("mistral-nemo-base", "mistralai/Mistral-Nemo-Base-2407", note="12B, base"),
    CatalogEntry("ministral-8b", "mistralai/Ministral-8B-Instruct-2410", MRL, gated=True, note="instruct"),
    CatalogEntry("mistral-small-3", "mistralai/Mistral-Small-24B-Instruct-2501"),
    CatalogEntry("mistral-small-3.1", "mistralai/Mistral-Small-3.1-24B-Instruct-2503", note="text and images"),
    CatalogEntry("mistral-small-3.1-base", "mistralai/Mistral-Small-3.1-24B-Base-2503", note="text and images"),
    CatalogEntry("mistral-small-3.2", "mistralai/Mistral-Small-3.2-24B-Instruct-2506", note="text and images"),
    CatalogEntry("mistral-small-4", "mistralai/Mistral-Small-4-119B-2603", note="mixture of experts"),
    CatalogEntry("magistral-small", "mistralai/Magistral-Small-2509", note="reasoning"),
    CatalogEntry("devstral-small", "mistralai/Devstral-Small-2507", note="code"),
    CatalogEntry("pixtral-12b", "mistralai/Pixtral-12B-2409", note="text and images; native format only"),
    CatalogEntry(
        "pixtral-large",
        "mistralai/Pixtral-Large-Instruct-2411",
        MRL,
        gated=True,
        note="124B, text and images; native format only",
    ),
    CatalogEntry("mixtral-8x7b", "mistralai/Mixtral-8x7B-v0.1", note="base; mixture of experts"),
    CatalogEntry("mixtral-8x7b-instruct", "mistralai/Mixtral-8x7B-Instruct-v0.1", note="mixture of experts"),
    CatalogEntry("voxtral-mini", "mistralai/Voxtral-Mini-3B-2507", note="text and speech"),
    CatalogEntry("voxtral-small", "mistralai/Voxtral-Small-24B-2507", note="text and speech"),
    CatalogEntry("ministral-3-3b", "mistralai/Ministral-3-3B-Instruct-2512", note="text and images; FP8"),
    CatalogEntry("ministral-3-8b", "mistralai/Ministral-3-8B-Instruct-2512", note="text and images; FP8"),
    CatalogEntry("ministral-3-14b", "mistralai/Ministral-3-14B-Instruct-2512", note="text and images; FP8"),
    CatalogEntry("ministral-3-3b-base", "mistralai/Ministral-3-3B-Base-2512", note="text and images"),
    CatalogEntry("ministral-3-8b-base", "mistralai/Ministral-3-8B-Base-2512", note="text and images"),
    CatalogEntry("ministral-3-14b-base", "mistralai/Ministral-3-14B-Base-2512", note="text and images"),
    CatalogEntry("ministral-3-3b-reasoning", "mistralai/Ministral-3-3B-Reasoning-2512", note="reasoning"),
    CatalogEntry("ministral-3-8b-reasoning", "mistralai/Ministral-3-8B-Reasoning-2512", note="reasoning"),
    CatalogEntry("ministral-3-14b-reasoning", "mistralai/Ministral-3-14B-Reasoning-2512", note="reasoning"),
    # "The base model of Mistral 3" without a size: the middle one, heir of Mistral-7B.
    CatalogEntry("mistral-3-base", "mistralai/Ministral-3-8B-Base-2512", note="the same as ministral-3-8b-base"),
)

CATALOG: dict[str, CatalogEntry] = {entry.name: entry for entry in _ENTRIES}


def is_repo_id(name: str) -> bool:
    """Whether `name` has the form owner/name that the hub allows."""
    return bool(_REPO.fullmatch(name)) and ".." not in name and "--" not in name and len(name) <= 200


def lookup(name: str) -> CatalogEntry | None:
    """The entry of a short name (in any case) or of any owner/name; None where it is neither."""
    entry = CATALOG.get(name.lower())
    if entry is not None or not is_repo_id(name):
        return entry
    known = (entry for entry in _ENTRIES if entry.repo.lower() == name.lower())
    return next(known, CatalogEntry(name, name, licence="see the model's page"))


def find_entry(name: str) -> CatalogEntry:
    """`lookup`, but raises ModelNotFoundError with close matches."""
    entry = lookup(name)
    if entry is not None:
        return entry
    if name.lower() in embedded_models():
        raise ModelNotFoundError(f"'{name}' is shipped with Ostro: there is nothing to pull. Try: ostro serve {name}")
    raise ModelNotFoundError(f"There is no model named '{name}'.{close_names(name)}")


def close_names(name: str) -> str:
    """` Did you mean …?` with the known names nearest to `name`, or where to see them all."""
    names = [*CATALOG, *embedded_models()]
    close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    if close:
        return f" Did you mean {' or '.join(close)}? `ostro models` lists all names; owner/name of the hub works too."
    return " `ostro models` lists the known names; owner/name of the hub works too."
