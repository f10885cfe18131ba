"""The one shape description that every dense decoder of the family is built from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ostro.core.errors import ConfigError

if TYPE_CHECKING:
    from ostro.models.layers.encoder import Encoder

# Far beyond any model. What a config says is made into tables of positions and shapes of matrices before the
# checkpoint's tensors are compared with it.
MAX_HEAD_DIM = 1 << 16
MAX_MATRIX = 1 << 48


@dataclass(frozen=True)
class YarnConfig:
    """YaRN context extension (Peng et al. 2023, arXiv:2309.00071).

    attention_factor multiplies cos and sin; None derives it from mscale, mscale_all_dim and factor.
    """

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        for field in ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow"):
            if not (math.isfinite(getattr(self, field)) and getattr(self, field) > 0):
                raise ConfigError(f"{field} must be above 0, not {getattr(self, field):g}.", param=field)


@dataclass(frozen=True)
class QueryScaling:
    """Llama-4 query scaling: q * (1 + beta * ln(1 + floor(position / original_max_position_embeddings)))."""

    beta: float
    original_max_position_embeddings: int

    def __post_init__(self) -> None:
        if self.original_max_position_embeddings < 1:
            raise ConfigError(
                "The original_max_position_embeddings of query scaling must be at least 1, not "
                f"{self.original_max_position_embeddings}.",
                param="original_max_position_embeddings",
            )


class EncoderConfig(Protocol):
    """One sense of a model: what makes its encoder."""

    @property
    def modality(self) -> str: ...

    def build(self, hidden_size: int) -> Encoder:
        """The encoder, its adapter to a decoder of that width included; on the current default device."""


@dataclass(frozen=True)
class DecoderConfig:
    """A dense decoder. `windows` has one entry a layer: 0 sees everything before, w the last w positions.

    tie_word_embeddings: None where the config does not say; the checkpoint's tensors decide then.
    dtype: the type the checkpoint's config declares, such as "bfloat16"; None where it does not.
    encoders: the senses beside text. unrotated: so many pairs of a head's dimensions, the last ones, carry no position.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    windows: tuple[int, ...]
    tie_word_embeddings: bool | None = False
    yarn: YarnConfig | None = None
    query_scaling: QueryScaling | None = None
    dtype: str | None = None
    eos_token_ids: tuple[int, ...] = ()
    encoders: tuple[EncoderConfig, ...] = ()
    unrotated: int = 0

    def __post_init__(self) -> None:
        for field in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "head_dim",
            "max_position_embeddings",
        ):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field} must be at least 1, not {getattr(self, field)}.", param=field)
        for field in ("rms_norm_eps", "rope_theta"):
            if not (math.isfinite(getattr(self, field)) and getattr(self, field) > 0):
                raise ConfigError(f"{field} must be above 0, not {getattr(self, field):g}.", param=field)
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"num_heads={self.num_heads} is not a multiple of num_kv_heads={self.num_kv_heads}.",
                param="num_kv_heads",
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim={self.head_dim} must be even for rotary embedding.", param="head_dim")
        self._check_sizes()
        if not 0 <= self.unrotated <= self.head_dim // 2:
            raise ConfigError(
                f"unrotated={self.unrotated} must be from 0 to half of head_dim={self.head_dim}.", param="unrotated"
            )
        if len(self.windows) != self.num_layers:
            raise ConfigError(
                f"{len(self.windows)} attention windows are given for {self.num_layers} layers.",
                param="windows",
            )

    def _check_sizes(self) -> None:
        if self.head_dim > MAX_HEAD_DIM:
            raise ConfigError(
                f"head_dim={self.head_dim} is above {MAX_HEAD_DIM}, which no model has; the config is damaged or made "
                "up. Take that of the model.",
                param="head_dim",
            )
        heads = self.num_heads + 2 * self.num_kv_heads
        widths = {
            "vocab_size": self.vocab_size,
            "intermediate_size": 2 * self.intermediate_size,
            "num_heads": heads * self.head_dim,
        }
        field = max(widths, key=lambda name: widths[name])
        if widths[field] * self.hidden_size > MAX_MATRIX:
            raise ConfigError(
                f"hidden_size={self.hidden_size} and {field}={getattr(self, field)} ask for a matrix of "
                f"{widths[field] * self.hidden_size} weights, which no model has; the config is damaged or made up. "
                "Take that of the model.",
                param="hidden_size",
            )
