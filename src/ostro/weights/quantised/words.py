"""Codes in the bits of 32-bit words, the first one in the lowest bits."""

from __future__ import annotations

from collections.abc import Iterator

import torch

# Matrices are unpacked some rows at a time, so that what lies in between stays small beside them.
CHUNK = 1 << 20


def per_word(bits: int) -> int:
    """How many codes a word holds."""
    return 32 // bits


def words(count: int, bits: int) -> int:
    """How many words `count` codes take."""
    return -(-count // per_word(bits))


def unpack_words(words_RW: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """The first `count` codes of each row: [R, W] int32 -> [R, count] uint8. bits: 4 or 8."""
    bytes_RY = words_RW.contiguous().view(torch.uint8)
    if bits == 8:
        return bytes_RY[:, :count]
    return torch.stack((bytes_RY & 15, bytes_RY >> 4), dim=-1).flatten(1)[:, :count]


def row_chunks(outputs: int, inputs: int, multiple: int = 1) -> Iterator[slice]:
    """Slices of rows, each a multiple of `multiple` but for the last, of about CHUNK elements."""
    step = max(1, CHUNK // max(1, inputs) // multiple) * multiple
    for first in range(0, outputs, step):
        yield slice(first, min(first + step, outputs))
