"""The dense decoder: pre-norm attention and SwiGLU blocks over a residual stream.

Suffixes of tensor names: T tokens of a flat batch, D hidden, E stacked projections, F feed-forward, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from ostro.core.request import LabelScore
from ostro.kernels.packed_linear.layout import Packed
from ostro.models.config import DecoderConfig
from ostro.models.layers.context import AttentionSpec, Context
from ostro.models.layers.encoder import Encoder
from ostro.models.layers.formats import Dense, Quantised, WeightFormat
from ostro.models.layers.linear import Linear
from ostro.models.layers.norm import RMSNorm
from ostro.models.layers.rotary import Rotary, Rotation


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245); the context keeps the keys and values."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        q_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.spec = AttentionSpec(
            layer=layer,
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            window=config.windows[layer],
            scale=config.head_dim**-0.5,
        )
        self.qkv = Linear(config.hidden_size, {"q": q_size, "k": kv_size, "v": kv_size})
        self.output = Linear(q_size, config.hidden_size)

    def forward(self, x_TD: torch.Tensor, rotation: Rotation, context: Context) -> torch.Tensor:
        out: torch.Tensor = self.output(context.attend(self.spec, self.qkv(x_TD), rotation))
        return out


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv:2002.05202). The dense filling of a block's feed-forward slot.

    width: channels; the config's where it is not given.
    """

    def __init__(self, config: DecoderConfig, width: int | None = None) -> None:
        super().__init__()
        width = width or config.intermediate_size
        self.gate_up = Linear(config.hidden_size, {"gate": width, "up": width})
        self.down = Linear(width, config.hidden_size)

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.down(self.gate_up.gated(x_TD))
        return out


class Block(nn.Module):
    """One layer. The residual sum of a branch is left to the norm that follows it, so that both are one pass."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config, layer)
        self.feed_forward_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.feed_forward: nn.Module = FeedForward(config)

    def forward(
        self, x_TD: torch.Tensor, branch_TD: torch.Tensor | None, rotation: Rotation, context: Context
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(stream, pending branch) -> (stream, pending branch)."""
        if branch_TD is None:
            normed_TD = self.attention_norm(x_TD)
        else:
            x_TD, normed_TD = self.attention_norm.add(x_TD, branch_TD)
        branch_TD = context.residual(self.attention(normed_TD, rotation, context))
        x_TD, normed_TD = self.feed_forward_norm.add(x_TD, branch_TD)
        return x_TD, context.residual(self.feed_forward(normed_TD))


class Embedding(nn.Module):
    """Token embedding; also the output head where the two are tied. Made dense; `quantise` changes that."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight: nn.Parameter | None = nn.Parameter(torch.empty(vocab_size, hidden_size))
        self._quantised: Quantised | None = None

    def forward(self, ids_T: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if self._quantised is not None:
            return self._quantised.lookup(ids_T, dtype)
        assert self.weight is not None
        return F.embedding(ids_T, self.weight)

    def logits(self, hidden_TD: torch.Tensor) -> torch.Tensor:
        """As a head: [T, D] -> [T, V]."""
        return self.format.linear(hidden_TD)

    @property
    def format(self) -> WeightFormat:
        if self._quantised is not None:
            return self._quantised
        assert self.weight is not None
        return Dense(self.weight, {"": (0, self.weight.shape[0])})

    def part(self, name: str | None) -> torch.Tensor:
        assert name is None
        return self.format.dense("")

    def empty(self) -> None:
        """Let go of the dense weight, as a layer does."""
        self.weight = None

    def quantise(self, matrices: Mapping[str, Packed | torch.Tensor]) -> None:
        """Take the one matrix, named ""; one that is left dense stays a weight."""
        matrix = matrices[""]
        if isinstance(matrix, torch.Tensor):
            self.weight, self._quantised = nn.Parameter(matrix, requires_grad=False), None
        else:
            self.weight, self._quantised = None, Quantised(matrices)


class Decoder(nn.Module):
    """Embedding, blocks, final norm and head. `config.tie_word_embeddings` must be decided (not None).

    senses: what rows of a batch can be of, in the order of their numbers, where the layers want to know; see `Context`.
    """

    senses: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        assert config.tie_word_embeddings is not None
        self.config = config
        self.embed = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(self.make_block(config, layer) for layer in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head = None if config.tie_word_embeddings else Linear(config.hidden_size, config.vocab_size)
        self.rotary = Rotary(config)
        self.encoders = nn.ModuleDict({one.modality: one.build(config.hidden_size) for one in config.encoders})

    def make_block(self, config: DecoderConfig, layer: int) -> Block:
        """One layer; architectures with another kind of block say so here."""
        return Block(config, layer)

    def lay_out(self) -> None:
        """Called when the weights are where they stay: to put them in memory as they are read best. They may change
        afterwards, but not be replaced by others."""

    def forward(
        self,
        inputs: torch.Tensor,
        positions_T: torch.Tensor,
        context: Context,
        layers: range | None = None,
    ) -> torch.Tensor:
        """Token ids [T] or embeddings [T, D], positions [T] -> hidden states [T, D] after the final norm.

        layers: the blocks to run, all by default; a range that stops before the last block returns the bare
        residual stream, as a pipeline stage hands it on. Given embeddings are not modified.
        """
        layers = layers or range(len(self.layers))
        rotation = self.rotary(positions_T)
        x_TD = inputs.clone() if inputs.is_floating_point() else self.embed(inputs, self.dtype)
        branch_TD: torch.Tensor | None = None
        for index in layers:
            x_TD, branch_TD = self.layers[index](x_TD, branch_TD, rotation, context)
        assert branch_TD is not None
        if layers.stop < len(self.layers):
            return x_TD + branch_TD
        return self.norm.add(x_TD, branch_TD)[1]

    def logits(self, hidden_TD: torch.Tensor) -> torch.Tensor:
        """[T, D] -> [T, V]. Call it on the rows that need it only."""
        if self.head is None:
            return self.embed.logits(hidden_TD)
        out: torch.Tensor = self.head(hidden_TD)
        return out

    @property
    def dtype(self) -> torch.dtype:
        """The type of activations; weights may be held in another."""
        return self.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.norm.weight.device

    @property
    def quantised(self) -> bool:
        """Whether any matrix is held as integers."""
        layers = (module for module in self.modules() if isinstance(module, Linear | Embedding))
        return any(isinstance(layer.format, Quantised) for layer in layers)

    def size(self) -> tuple[int, int]:
        """How many weights there are, and how many bytes they take."""
        counts = [module.format.size() for module in self.modules() if isinstance(module, Linear | Embedding)]
        matrices = {id(module.weight) for module in self.modules() if isinstance(module, Linear | Embedding)}
        others = [weight for weight in self.parameters() if id(weight) not in matrices]
        counts += [(weight.numel(), weight.numel() * weight.element_size()) for weight in others]
        return sum(count for count, _ in counts), sum(taken for _, taken in counts)

    def label_scores(self, hidden_D: torch.Tensor) -> list[LabelScore]:  # noqa: ARG002 - for models with labels
        """What the head for labels says of one row [D]; nothing where there is none."""
        return []

    @contextmanager
    def watching_routes(self) -> Iterator[list[torch.Tensor]]:
        """Within it a forward pass puts the routing factors of each layer that routes, [T, senses], into the list."""
        yield []

    def pooled(self, vector_D: torch.Tensor) -> torch.Tensor:
        """What a prompt's pooled hidden state becomes as its embedding."""
        return vector_D

    def encoder(self, modality: str) -> Encoder | None:
        """The encoder of a sense; None where the model does not have it."""
        for name, encoder in self.encoders.items():
            if name == modality:
                assert isinstance(encoder, Encoder)
                return encoder
        return None

    def attention_specs(self) -> list[AttentionSpec]:
        """One a layer, in order: what the KV cache is laid out by."""
        return [block.attention.spec for block in self.layers]  # type: ignore[union-attr, misc]  # Blocks
