"""Text to tokens and back, and chat templates. Importing it is cheap; a library is loaded with the first file."""

from __future__ import annotations

import re
from pathlib import Path

from ostro.tokenizer.base import Tokenizer

__all__ = ["Tokenizer", "load_tokenizer"]

_VERSIONED_MODEL = re.compile(r".*\.model\.v(\d+)(?:m\d+)?")


def load_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a checkpoint folder or GGUF file; None where it holds none.

    A tekken file is preferred, then a SentencePiece model (one whose name has a version, the highest first, then a
    bare one), then `tokenizer.json`. The version comes from the file, never from a model's name.
    Raises TokenizerError that names the file and what to do.
    """
    if folder.suffix == ".gguf" and folder.is_file():
        return _load_gguf(folder)
    if tekken := _first(folder, "tekken.json", "tekken*.json"):
        from ostro.tokenizer.mistral import TekkenTokenizer

        return TekkenTokenizer.load(tekken)
    if model := _versioned_model(folder) or _first(folder, "tokenizer.model", "*.model"):
        from ostro.tokenizer.mistral import SentencePieceModel

        return SentencePieceModel.load(model)
    if json_file := _first(folder, "tokenizer.json"):
        from ostro.tokenizer.huggingface import HuggingFaceTokenizer

        return HuggingFaceTokenizer.load(json_file)
    return None


def _load_gguf(path: Path) -> Tokenizer | None:
    from ostro.core.gguf import read_header
    from ostro.tokenizer.gguf_vocabulary import gguf_vocabulary
    from ostro.tokenizer.huggingface import HuggingFaceTokenizer

    metadata = read_header(path).metadata
    if metadata.get("tokenizer.ggml.model", "no_vocab") == "no_vocab":
        return None
    made = gguf_vocabulary(metadata)
    config = made.tokenizer_config
    return HuggingFaceTokenizer.of(
        str(path),
        made.tokenizer_json,
        config["bos_token"],
        config["eos_token"],
        config["chat_template"],
        adds_bos=config["add_bos_token"],
    )


def _first(folder: Path, *patterns: str) -> Path | None:
    return next((path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()), None)


def _versioned_model(folder: Path) -> Path | None:
    found = [
        (int(match[1]), path)
        for path in sorted(folder.glob("*.model.v*"))
        if (match := _VERSIONED_MODEL.fullmatch(path.name)) and path.is_file()
    ]
    return max(found)[1] if found else None
