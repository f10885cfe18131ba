"""Text to rows of tokens, for calibration and for perplexity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ostro.core.errors import ConfigError, OstroError
from ostro.tokenizer import Tokenizer

# Prose in seven languages, dialogue, code, JSON and tables, all written for this project.
SAMPLE = Path(__file__).resolve().parent.parent / "data" / "calibration.txt"
# Of one text, every eighth window is kept for measuring.
HELD_OUT = 8


def read_documents(path: Path, tokenizer: Tokenizer) -> list[list[int]]:
    """Token ids of a text file, or of each line of a .jsonl file: {"text": …} or {"messages": [...]}.

    Chats are encoded with the model's own template. Raises ConfigError with the line that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The text {path} cannot be read: {error}.") from error
    if path.suffix != ".jsonl":
        return [tokenizer.encode(text, bos=False)]
    documents = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            documents.append(_encode(value, tokenizer))
        except (ValueError, TypeError, LookupError, OstroError) as error:
            raise ConfigError(
                f'{path}, line {number}: expected {{"text": "…"}} or {{"messages": [...]}} ({error}).'
            ) from error
    return documents


def _encode(value: Any, tokenizer: Tokenizer) -> list[int]:
    if "text" in value:
        return tokenizer.encode(value["text"], bos=False)
    messages = value["messages"]
    return tokenizer.encode_chat(messages, continue_final=messages[-1]["role"] == "assistant")


def windows(documents: list[list[int]], length: int, bos: int | None) -> torch.Tensor:
    """Documents, one after the other, cut into rows [N, length] int64; each begins with bos where there is one.

    The rest that fills no row is left out; a text that is too short for one row makes one shorter row.
    """
    ids = [token for document in documents for token in document]
    head = [] if bos is None else [bos]
    body = length - len(head)
    if len(ids) < 2:
        raise ConfigError("The text is empty, so there is nothing to calibrate with or to measure; give a longer one.")
    rows = [[*head, *ids[start : start + body]] for start in range(0, len(ids) - body + 1, body)]
    return torch.tensor(rows or [[*head, *ids]], dtype=torch.int64)


def split(rows_NL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(calibration, evaluation) of one text. Raises ConfigError where there is but one row."""
    if len(rows_NL) == 1:
        raise ConfigError(
            f"The text makes one window of {rows_NL.shape[1]} tokens, so that none is left to measure with. Give a "
            "longer text, a smaller --length, or another text with --evaluation."
        )
    index_N = torch.arange(len(rows_NL))
    held_N = index_N % HELD_OUT == min(HELD_OUT, len(rows_NL)) - 1
    return rows_NL[~held_N], rows_NL[held_N]


def spread(rows_NL: torch.Tensor, most: int) -> torch.Tensor:
    """At most so many rows, evenly spaced."""
    count = len(rows_NL)
    return rows_NL if count <= most else rows_NL[torch.arange(most) * count // most]
