"""Text on its way through a model that is only there one block at a time."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F

from ostro.models.layers.context import DenseContext
from ostro.models.layers.decoder import Block, Decoder
from ostro.models.layers.rotary import Rotary

# Tokens that run through a block at once: their activations are all that is held beside the streams.
CHUNK = 2048


class Stream:
    """Rows of tokens [N, L] and their hidden states [N, L, D], float32, after as many blocks as they went through."""

    def __init__(self, ids_NL: torch.Tensor, embed: Callable[[torch.Tensor], torch.Tensor], rotary: Rotary) -> None:
        self.ids_NL = ids_NL
        self._rotary = rotary
        self._rows = max(1, CHUNK // ids_NL.shape[1])
        self._hidden_NLD = torch.stack([embed(ids_L) for ids_L in ids_NL])

    @property
    def tokens(self) -> int:
        return self.ids_NL.numel()

    def advance(self, block: Block) -> None:
        """Through one block."""
        for start in range(0, len(self.ids_NL), self._rows):
            part_NLD = self._hidden_NLD[start : start + self._rows]
            part_NLD.copy_(self._through(block, part_NLD).view_as(part_NLD))

    def show(self, block: Block) -> None:
        """The block, and who observes its layers, see the stream; it stays where it is."""
        for start in range(0, len(self.ids_NL), self._rows):
            self._through(block, self._hidden_NLD[start : start + self._rows])

    def normed(self, norm: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        """What the head reads, [T, D] for each chunk of rows."""
        parts = torch.split(self._hidden_NLD, self._rows)
        return [norm(part_NLD.reshape(-1, part_NLD.shape[-1])) for part_NLD in parts]

    def loss(self, model: Decoder) -> float:
        """Nats a token, of all but the first of each row, after the last block."""
        total = 0.0
        for ids_L, hidden_LD in zip(self.ids_NL, self._hidden_NLD, strict=True):
            total += float(
                F.cross_entropy(model.logits(model.norm(hidden_LD[:-1])).float(), ids_L[1:], reduction="sum")
            )
        return total / (self.tokens - len(self.ids_NL))

    def _through(self, block: Block, part_NLD: torch.Tensor) -> torch.Tensor:
        rows, length, width = part_NLD.shape
        rotation = self._rotary(torch.arange(length).repeat(rows))
        x_TD, branch_TD = block(part_NLD.reshape(-1, width).clone(), None, rotation, DenseContext(rows))
        out_TD: torch.Tensor = x_TD + branch_TD
        return out_TD


def to_perplexity(loss: float) -> float:
    """e^loss, infinite where that is beyond a float."""
    return math.exp(loss) if loss < math.log(sys.float_info.max) else math.inf


def perplexity(model: Decoder, ids_NL: torch.Tensor) -> float:
    """Of a whole model in memory, for rows of tokens [N, L], the first of each not counted."""
    return to_perplexity(loss(model, ids_NL))


def loss(model: Decoder, ids_NL: torch.Tensor) -> float:
    """The same in nats a token."""
    total = 0.0
    with torch.inference_mode():
        for ids_L in ids_NL:
            # Whole rows, as a stream runs them: sums over other lengths are made in another order.
            hidden_LD = model(ids_L, torch.arange(len(ids_L)), DenseContext())[:-1]
            total += float(F.cross_entropy(model.logits(hidden_LD).float(), ids_L[1:], reduction="sum"))
    return total / (ids_NL.numel() - len(ids_NL))
