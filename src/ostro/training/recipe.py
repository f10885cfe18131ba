"""A recipe: everything that a training run depends on, as a frozen, typed, strict YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from ostro.core import settings
from ostro.models.config import DecoderConfig
from ostro.training.precision import Precision

T = TypeVar("T")


class TokenizerRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """vocab_size counts num_special control tokens."""

    vocab_size: int
    num_special: int


class ModelRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The decoder's shape; the head is tied to the embedding."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context: int
    rope_theta: float = 10_000.0

    def config(self, vocab_size: int) -> DecoderConfig:
        return DecoderConfig(
            architecture="mistral",
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            rms_norm_eps=1e-5,
            rope_theta=self.rope_theta,
            max_position_embeddings=self.context,
            windows=(0,) * self.num_layers,
            tie_word_embeddings=True,
        )


class DataRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Files in the data folder, and how they are mixed.

    validation: share of each label's examples, and of the text's end, that training never sees.
    text_share: share of steps on plain text. turns: most turns of a conversation. follow_up: probability that a turn
    asks nothing new. system: probability of a system prompt. word_dropout, typos: probability for each word of a
    question to be left out, or to get a typing error. row_length: tokens of a row that documents are packed into.
    """

    questions: str
    labels: str
    text: str
    validation: float = 0.1
    text_share: float = 0.2
    row_length: int = 192
    turns: int = 5
    follow_up: float = 0.2
    system: float = 0.2
    word_dropout: float = 0.0
    typos: float = 0.0


class Customers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a customer asks, as probabilities. word_dropout, typos: for each word of a question to be left out, or to get
    a typing error. earlier: that other questions were asked before. follow_up: that the last turn asks nothing new.
    system: that a conversation, of whatever task, has a system prompt. splits: for each token of a question to be read
    as two, as though the vocabulary had no better (after Provilkov et al. 2020, arXiv:1910.13267)."""

    word_dropout: float = 0.1
    typos: float = 0.03
    earlier: float = 0.3
    follow_up: float = 0.25
    system: float = 0.2
    splits: float = 0.0


class OptimiserRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """AdamW with warm-up and a cosine, over `steps` batches.

    ema: decay of the averaged weights that are kept. precision: of matrix products (autocast); weights are of fp32.
    matrix_rate: above 0, the matrices inside the decoder's layers are trained with Muon at this rate, and at
    matrix_decay, in place of AdamW.
    """

    steps: int
    rate: float
    warmup: int = 100
    final_rate: float = 0.05
    weight_decay: float = 0.1
    clip: float = 1.0
    dropout: float = 0.1
    label_smoothing: float = 0.0
    ema: float = 0.999
    precision: Precision = "fp32"
    matrix_rate: float = 0.0
    matrix_decay: float = 0.1
    save_every: int = 200
    evaluate_every: int = 500


class TextRecipe(OptimiserRecipe, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """tokens: of a batch, about. question_loss: weight of a question's own tokens, against 1 for its answer."""

    tokens: int
    question_loss: float = 0.0


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model's training, from data folder to checkpoint folder."""

    name: str
    seed: int
    tokenizer: TokenizerRecipe
    model: ModelRecipe
    data: DataRecipe
    train: TextRecipe


def load_recipe(path: Path) -> Recipe:
    """Raises ConfigError naming the key that is missing, unknown or wrong."""
    return convert(read_yaml(path), Recipe, path)


def read_yaml(path: Path) -> object:
    """Raises ConfigError."""
    return settings.read_yaml(path, "recipe")


def convert(values: object, kind: type[T], path: Path) -> T:
    """Raises ConfigError naming the key that is missing, unknown or wrong."""
    return settings.convert(values, kind, path, "recipe")
