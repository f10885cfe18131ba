"""`ostro serve` as a user starts it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from nodes import Node

import tiny_checkpoints
from ostro.training.tokenizer import train_tekken, write_tekken

VOCABULARY = 320


def write_tiny_model(folder: Path) -> None:
    """A random checkpoint with a real tokenizer."""
    torch.manual_seed(0)
    model = tiny_checkpoints._mistral(vocab_size=VOCABULARY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15)
    model.save_pretrained(folder)
    texts = ["once upon a time there was a river", "the river was wide and the bridge was far"] * 5
    write_tekken(train_tekken(texts, vocab_size=VOCABULARY, num_special=40), folder)


@contextmanager
def served(model: Path | str, *options: str) -> Iterator[Node]:
    command = [sys.executable, "-m", "ostro", "serve", str(model), "--port", "0", "--threads", "1", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Ostro is ready: http://127.0.0.1:"), line
        node = Node(process, int(line.rsplit(":", 1)[1]))
        try:
            yield node
        finally:
            node.http.close()
            process.kill()
