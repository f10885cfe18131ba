"""The image encoder's shape, as `vision_config` and `params.json` have it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ostro.core.errors import ConfigError
from ostro.models.json_config import MAX_LAYERS, ConfigReader

if TYPE_CHECKING:
    from ostro.models.layers.encoder import Encoder

ACTIVATIONS = ("gelu", "silu", "gelu_pytorch_tanh")
# Far beyond any encoder: what a config says is made into tensors before the checkpoint's are compared with it.
MAX_SIZE = 1 << 18
IMAGE_TOKEN = 10


@dataclass(frozen=True)
class PixtralConfig:
    """A vision transformer over patches, and the projector into the decoder.

    image_size: the longest side in pixels that it was made for. merge: so many patches a side become one token; 1
    merges none, and then there is no merging layer. projector_norm: an RMSNorm before the projector. placeholder: the
    id of `[IMG]`.
    """

    modality: ClassVar[str] = "image"

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    patch_size: int
    image_size: int
    channels: int = 3
    rope_theta: float = 10_000.0
    activation: str = "silu"
    norm_eps: float = 1e-5
    merge: int = 1
    projector_activation: str = "gelu"
    projector_bias: bool = False
    projector_norm: bool = False
    projector_norm_eps: float = 1e-5
    placeholder: int = IMAGE_TOKEN

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads or self.head_dim % 4:
            raise ConfigError(
                f"The vision encoder's hidden_size={self.hidden_size} must be {self.num_heads} heads of a multiple of "
                "4, for rotary embedding in two dimensions.",
                param="hidden_size",
            )
        if not (math.isfinite(self.rope_theta) and self.rope_theta > 0):
            raise ConfigError(f"rope_theta must be above 0, not {self.rope_theta:g}.", param="rope_theta")
        for field in ("activation", "projector_activation"):
            if getattr(self, field) not in ACTIVATIONS:
                raise ConfigError(
                    f"The vision encoder's {field} is {getattr(self, field)!r}; known are {', '.join(ACTIVATIONS)}.",
                    param=field,
                )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    def build(self, hidden_size: int) -> Encoder:
        from ostro.models.pixtral.model import PixtralEncoder

        return PixtralEncoder(self, hidden_size)


def parse_vision(values: Mapping[str, Any], projector: Mapping[str, Any], where: str) -> PixtralConfig:
    """`vision_config` of a Hugging Face config. projector: fields of PixtralConfig that stand beside it.

    Raises ConfigError for what this encoder does not do.
    """
    reader = ConfigReader(values, f"{where}: vision_config")
    kind = values.get("model_type", "pixtral")
    if kind != "pixtral":
        raise ConfigError(
            f"{where}: vision_config has model_type {kind!r}; the image encoder that is known is 'pixtral'.",
            param="model_type",
        )
    reader.ignore(("vocab_size", "tie_word_embeddings"))  # It has no words; transformers writes both.
    rope = reader.section("rope_parameters")
    theta = reader.real("rope_theta", 10_000.0)
    if rope:
        inner = ConfigReader(rope, f"{where}: rope_parameters of vision_config")
        inner.expect("rope_type", "axial", "default", None)
        theta = inner.real("rope_theta", theta)
        inner.finish()
    heads, hidden = (
        reader.integer("num_attention_heads", 16, most=MAX_SIZE),
        reader.integer("hidden_size", 1024, most=MAX_SIZE),
    )
    head_dim = reader.integer("head_dim", hidden // heads or 1, most=MAX_SIZE)
    if head_dim * heads != hidden:
        raise ConfigError(
            f"{where}: vision_config has {heads} heads of {head_dim}, which are not its hidden_size={hidden}.",
            param="head_dim",
        )
    config = PixtralConfig(
        hidden_size=hidden,
        intermediate_size=reader.integer("intermediate_size", 4096, most=MAX_SIZE),
        num_layers=reader.integer("num_hidden_layers", 24, most=MAX_LAYERS),
        num_heads=heads,
        patch_size=reader.integer("patch_size", 16, most=4096),
        image_size=reader.integer("image_size", 1024, most=MAX_SIZE),
        channels=reader.integer("num_channels", 3, most=64),
        rope_theta=theta,
        activation=reader.text("hidden_act", "gelu"),
        **projector,
    )
    reader.finish()
    return config


def parse_native_vision(values: Mapping[str, Any], norm_eps: float) -> PixtralConfig:
    """`vision_encoder` of params.json. norm_eps: the decoder's, which the norm before the projector has too."""
    reader = ConfigReader(values, "params.json: vision_encoder")
    merging = reader.optional("mm_projector_id")
    if merging not in (None, "", "patch_merge"):
        raise ConfigError(
            f"params.json: vision_encoder has mm_projector_id {merging!r}; 'patch_merge' is known.",
            param="mm_projector_id",
        )
    merge = reader.integer("spatial_merge_size", 2 if merging else 1, most=64)
    reader.ignore(("image_break_token_id", "image_end_token_id", "max_image_size"))
    config = PixtralConfig(
        hidden_size=reader.integer("hidden_size", most=MAX_SIZE),
        intermediate_size=reader.integer("intermediate_size", most=MAX_SIZE),
        num_layers=reader.integer("num_hidden_layers", most=MAX_LAYERS),
        num_heads=reader.integer("num_attention_heads", most=MAX_SIZE),
        patch_size=reader.integer("patch_size", most=4096),
        image_size=reader.integer("image_size", most=MAX_SIZE),
        channels=reader.integer("num_channels", 3, most=64),
        rope_theta=reader.real("rope_theta", 10_000.0),
        merge=merge if merging else 1,
        projector_bias=reader.flag("adapter_bias") is not False,
        projector_norm=bool(reader.flag("add_pre_mm_projector_layer_norm")),
        projector_norm_eps=norm_eps,
        placeholder=reader.integer("image_token_id", IMAGE_TOKEN),
    )
    reader.finish()
    return config
