"""Tokenizer files to test with: all that mistral-common ships, and small ones of the versions that it does not."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import mistral_common

from ostro.tokenizer import Tokenizer, load_tokenizer

DATA = Path(mistral_common.__file__).parent / "data"
FILES = sorted(path.name for path in DATA.iterdir() if path.is_file())
SENTENCEPIECE = [name for name in FILES if not name.endswith(".json")]
NEWER = ["v11", "v13", "v15"]
# No version has these as ordinary text by accident, so a template's marks are seen for what they are.
EXTRA_SPECIALS = ["[CALL_ID]", "[ARGS]", "[THINK]", "[/THINK]", "[MODEL_SETTINGS]", "[/MODEL_SETTINGS]"]


def put(source: str, folder: Path) -> Path:
    """Copy a shipped file into `folder` under the name that checkpoints give it."""
    target = folder / ("tekken.json" if source.endswith(".json") else source)
    shutil.copy(DATA / source, target)
    return target


@functools.cache
def shipped(source: str) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        put(source, Path(folder))
        tokenizer = load_tokenizer(Path(folder))
    assert tokenizer is not None
    return tokenizer


@functools.cache
def _shipped_tekken() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DATA / "tekken_240911.json").read_text())
    return content


def write_tekken(folder: Path, version: str, *, tokens: int = 1000) -> Path:
    """A `tekken.json` of `version` with the first `tokens` of a shipped vocabulary."""
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    names = [str(token["token_str"]) for token in Tekkenizer.DEPRECATED_SPECIAL_TOKENS] + EXTRA_SPECIALS
    shipped_file = _shipped_tekken()
    content = {
        "config": {
            "pattern": shipped_file["config"]["pattern"],
            "num_vocab_tokens": tokens,
            "default_vocab_size": tokens + 100,
            "default_num_special_tokens": 100,
            "version": version,
        },
        "vocab": shipped_file["vocab"][:tokens],
        "special_tokens": [{"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(names)],
    }
    if version == "v15":
        content["model_settings_builder"] = {
            "reasoning_effort": {"type": "enum", "values": ["none", "high"], "accepts_none": True, "default": "none"}
        }
    path = folder / "tekken.json"
    path.write_text(json.dumps(content))
    return path


@functools.cache
def small_tekken(version: str) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        write_tekken(Path(folder), version)
        tokenizer = load_tokenizer(Path(folder))
    assert tokenizer is not None
    return tokenizer
