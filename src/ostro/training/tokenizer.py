"""Trains a byte-level BPE vocabulary and writes it in `tekken.json` form, which mistral-common loads."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ostro.core.errors import TrainingError

# Splits text before merging, as tekken does: a word keeps one leading separator, digits stand alone.
PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
VERSION = "v13"
# Control tokens of Ostro's own, behind the family's.
OWN_TOKENS = ("[SERIES]",)


def special_tokens() -> list[str]:
    """The control tokens of the family, in the order that published tokenizers give them, then Ostro's own."""
    from mistral_common.tokens.tokenizers.base import SpecialTokens
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    first = [str(token["token_str"]) for token in Tekkenizer.DEPRECATED_SPECIAL_TOKENS]
    return first + [token.value for token in SpecialTokens if token.value not in first] + list(OWN_TOKENS)


def train_tekken(texts: Iterable[str], *, vocab_size: int, num_special: int) -> dict[str, Any]:
    """Learn `vocab_size - num_special` tokens (256 bytes first, then merges in order) from texts.

    Returns the content of a tekken.json. Raises TrainingError where the sizes cannot be.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    names = special_tokens()
    wanted = vocab_size - num_special
    if num_special < len(names) or wanted < 256:
        raise TrainingError(
            f"vocab_size={vocab_size} with num_special={num_special}: at least {len(names)} special tokens and 256 "
            "bytes are needed."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=wanted, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    ranked = _ranked_bytes(learned)
    if len(ranked) != wanted:
        raise TrainingError(
            f"The texts give only {len(ranked)} tokens; lower vocab_size to {len(ranked) + num_special}."
        )
    return {
        "config": {
            "pattern": PATTERN,
            "num_vocab_tokens": wanted,
            "default_vocab_size": vocab_size,
            "default_num_special_tokens": num_special,
            "version": VERSION,
        },
        "vocab": [_entry(rank, token) for rank, token in enumerate(ranked)],
        "special_tokens": [{"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(names)],
        "type": "Tekken",
        "version": 1,
    }


def _ranked_bytes(model: dict[str, Any]) -> list[bytes]:
    """Tokens as bytes: the 256 single bytes in order, then the merges in the order they were learnt."""
    to_byte = _byte_alphabet()
    tokens = [bytes([value]) for value in range(256)]
    for merge in model["merges"]:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        tokens.append(bytes(to_byte[char] for char in "".join(pair)))
    # Two merges can spell the same bytes; the first one's rank is the token's.
    return list(dict.fromkeys(tokens))


def _byte_alphabet() -> dict[str, int]:
    """The printable stand-ins that byte-level BPE uses for bytes (GPT-2's table), inverted."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in printable]
    table = {chr(value): value for value in printable}
    table.update({chr(256 + index): value for index, value in enumerate(others)})
    return table


def _entry(rank: int, token: bytes) -> dict[str, Any]:
    try:
        text: str | None = token.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    return {"rank": rank, "token_bytes": base64.b64encode(token).decode("ascii"), "token_str": text}


def write_tekken(content: dict[str, Any], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tekken.json"
    path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    return path
