"""What turns an image, a sound or another sense's input into embeddings that stand in for tokens.

Suffixes of tensor names: N rows of all inputs of a batch one after the other, C the encoder's width, E stacked
projections, D the decoder's hidden size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from ostro.core.errors import InvalidRequestError
from ostro.core.media import MediaInput
from ostro.models.layers.linear import Linear

# Rows of one piece of work. Pieces are always cut here, however much time there is, so that timing changes no number.
PIECE_ROWS = 128
# A GPU is idle between small ones.
GPU_PIECE_ROWS = 2048
# Rows that are worth one batch.
BATCH_ROWS = 4096
_piece_rows = PIECE_ROWS

Result = TypeVar("Result")
# Work that stops between its pieces, so that others can be served in between.
Work = Generator[None, None, Result]


class Encoder(nn.Module, ABC):
    """One sense of a model, its adapter to the decoder included.

    modality: what it senses. placeholder: the token id that stands for its rows in a prompt.
    """

    modality: str
    placeholder: int

    @abstractmethod
    def check(self, media: MediaInput) -> None:
        """Raises InvalidRequestError for an input whose shape or grid this encoder does not take."""

    @abstractmethod
    def encode(self, inputs: Sequence[torch.Tensor]) -> Work[list[torch.Tensor]]:
        """Inputs as `MediaInput.array` has them, float32 -> for each [tokens, D], in the decoder's type."""

    def cost(self, media: MediaInput) -> int:
        """Rows that it is inside the encoder: what a batch of inputs is measured by."""
        return media.tokens


def refuse(media: MediaInput, expected: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"The {media.modality} was prepared as {list(media.shape)} with {media.grid[0]} rows of {media.grid[1]} "
        f"tokens, but the model's encoder takes {expected}.",
        param="messages",
    )


def finished(work: Work[Result]) -> Result:
    """The result of work that nobody waits beside."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: Result = end.value
            return result


@contextmanager
def unhurried() -> Iterator[None]:
    """Within it work is not cut: for training, where nobody waits beside it and larger products are quicker."""
    global _piece_rows
    before, _piece_rows = _piece_rows, 1 << 40
    try:
        yield
    finally:
        _piece_rows = before


def piece_rows(device: torch.device) -> int:
    """Rows of one piece of work."""
    return _piece_rows if device.type == "cpu" else max(_piece_rows, GPU_PIECE_ROWS)


def in_pieces(function: Callable[[torch.Tensor], torch.Tensor], x_NC: torch.Tensor) -> Work[torch.Tensor]:
    """A function of rows, applied to some rows at a time."""
    pieces = []
    for rows in torch.split(x_NC, piece_rows(x_NC.device)):
        pieces.append(function(rows))
        yield
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def attend_within(
    q_NHC: torch.Tensor, k_NHC: torch.Tensor, v_NHC: torch.Tensor, lengths: Sequence[int], scale: float
) -> Work[torch.Tensor]:
    """Attention of every row to all rows of its own input: [N, H, C] each -> [N, H * C].

    lengths: rows of each input, in order.
    """
    most = piece_rows(q_NHC.device)
    if len(set(lengths)) == 1 and lengths[0] <= most:
        return (yield from _attend_alike(q_NHC, k_NHC, v_NHC, lengths[0], scale))
    pieces = []
    at = 0
    for length in lengths:
        k_HLC, v_HLC = (x[at : at + length].transpose(0, 1) for x in (k_NHC, v_NHC))
        for start in range(at, at + length, most):
            q_HLC = q_NHC[start : min(start + most, at + length)].transpose(0, 1)
            out_HLC = F.scaled_dot_product_attention(q_HLC[None], k_HLC[None], v_HLC[None], scale=scale)[0]
            pieces.append(out_HLC.transpose(0, 1).flatten(1))
            yield
        at += length
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _attend_alike(
    q_NHC: torch.Tensor, k_NHC: torch.Tensor, v_NHC: torch.Tensor, length: int, scale: float
) -> Work[torch.Tensor]:
    """Inputs of one length: as many of them at a time as a piece has room for."""
    pieces = []
    rows = piece_rows(q_NHC.device) // length * length
    for q, k, v in zip(*(torch.split(x, min(rows, len(q_NHC))) for x in (q_NHC, k_NHC, v_NHC)), strict=True):
        q_BHLC, k_BHLC, v_BHLC = (x.unflatten(0, (-1, length)).transpose(1, 2) for x in (q, k, v))
        out_BHLC = F.scaled_dot_product_attention(q_BHLC, k_BHLC, v_BHLC, scale=scale)
        pieces.append(out_BHLC.transpose(1, 2).flatten(0, 1).flatten(1))
        yield
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


class Table(nn.Module):
    """A tensor of any shape that is no matrix of a linear layer: convolutions, positions, scales, shifts."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*shape))

    def part(self, name: str | None) -> torch.Tensor:
        assert name is None
        return self.weight.data


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016, arXiv:1607.06450) with a scale and a shift."""

    def __init__(self, size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.scale = Table(size)
        self.shift = Table(size)

    def forward(self, x_NC: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x_NC, x_NC.shape[-1:], self.scale.weight, self.shift.weight, self.eps)


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "silu": F.silu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


class Projector(nn.Module):
    """Two linear layers around an activation: from an encoder's width to the decoder's."""

    def __init__(self, in_features: int, out_features: int, activation: str, *, bias: bool) -> None:
        super().__init__()
        self.first = Linear(in_features, out_features, bias=bias)
        self.second = Linear(out_features, out_features, bias=bias)
        self._activation = ACTIVATIONS[activation]

    def forward(self, x_NC: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.second(self._activation(self.first(x_NC)))
        return out
