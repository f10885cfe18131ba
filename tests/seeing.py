"""Tiny random models with a real tokenizer: one that sees, and one of texts only."""

from __future__ import annotations

from pathlib import Path

import torch

import tiny_checkpoints
from ostro.training.tokenizer import train_tekken, write_tekken

VOCABULARY = 320


def write_seeing_model(folder: Path) -> None:
    """A random Mistral 3 with a real tokenizer."""
    torch.manual_seed(0)
    shape = {**tiny_checkpoints.SHAPE, "model_type": "mistral", "head_dim": 16, "sliding_window": None}
    tiny_checkpoints.save(tiny_checkpoints._mistral3({**shape, "vocab_size": VOCABULARY}), folder)
    _write_tokenizer(folder)


def write_text_model(folder: Path, **changes: int) -> None:
    """A random Mistral with the same tokenizer."""
    torch.manual_seed(0)
    tiny_checkpoints.save(tiny_checkpoints._mistral(vocab_size=VOCABULARY, **changes), folder)
    _write_tokenizer(folder)


def _write_tokenizer(folder: Path) -> None:
    texts = ["once upon a time there was a river", "what is seen in the picture of the bridge"] * 5
    write_tekken(train_tekken(texts, vocab_size=VOCABULARY, num_special=40), folder)
