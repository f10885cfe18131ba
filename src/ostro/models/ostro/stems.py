"""The shape of Ostro's own encoders: convolutions that make tokens, a few transformer layers over them, a projector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ostro.core.errors import ConfigError
from ostro.models.json_config import MAX_LAYERS, ConfigReader
from ostro.models.pixtral.config import ACTIVATIONS

if TYPE_CHECKING:
    from ostro.models.layers.encoder import Encoder

# Whether a sense has two dimensions; others have the second one only.
PLANE = {"image": True, "audio": False, "series": False}
_MOST = 1 << 14


@dataclass(frozen=True)
class ConvConfig:
    """One convolution. kernel, stride: along each dimension of the sense. pool: the largest of so many outputs along
    each dimension is kept. residual: its input is added to its output, which has the same shape then."""

    channels: int
    kernel: int = 3
    stride: int = 1
    pool: int = 1
    residual: bool = False


@dataclass(frozen=True)
class StemConfig:
    """An encoder of one sense.

    channels: of the input: 3 colours, mel bins, or series side by side. convolutions: each followed by its activation.
    hidden_size: channels of the last convolution, and of the layers. num_layers may be 0. placeholder: the token id
    that stands for its rows. max_tokens: of one input. rope_theta: base of the layers' rotary frequencies; small, since
    grids are.
    """

    modality: str
    channels: int
    convolutions: tuple[ConvConfig, ...]
    num_layers: int
    num_heads: int
    intermediate_size: int
    placeholder: int
    max_tokens: int = 4096
    activation: str = "silu"
    rope_theta: float = 100.0

    def __post_init__(self) -> None:
        where = f"The encoder '{self.modality}'"
        if self.modality not in PLANE:
            raise ConfigError(f"{where} is for no known sense; known are {', '.join(PLANE)}.", param="encoders")
        if not self.convolutions:
            raise ConfigError(f"{where} needs at least one convolution.", param="convolutions")
        before = self.channels
        for conv in self.convolutions:
            sizes = 1 <= conv.channels <= _MOST and 1 <= conv.kernel <= 1024 and 1 <= conv.pool <= 1024
            if not (sizes and 1 <= conv.stride <= conv.kernel):
                raise ConfigError(f"{where} has an impossible convolution: {conv}.", param="convolutions")
            shrinks = conv.stride > 1 or conv.pool > 1
            if conv.residual and (shrinks or conv.channels != before or conv.kernel % 2 == 0):
                raise ConfigError(f"{where} adds an input to an output of another shape: {conv}.", param="convolutions")
            before = conv.channels
        if self.activation not in ACTIVATIONS:
            raise ConfigError(
                f"{where} has the activation {self.activation!r}; known are {', '.join(ACTIVATIONS)}.",
                param="activation",
            )
        if not (math.isfinite(self.rope_theta) and self.rope_theta > 0):
            raise ConfigError(f"{where} needs a rope_theta above 0, not {self.rope_theta:g}.", param="rope_theta")
        if self.num_layers and (self.hidden_size % self.num_heads or self.head_dim % 4):
            raise ConfigError(
                f"{where} has {self.hidden_size} channels, which are not {self.num_heads} heads of a multiple of 4.",
                param="num_heads",
            )

    @property
    def hidden_size(self) -> int:
        return self.convolutions[-1].channels

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def side(self) -> int:
        """Input elements along each dimension that one token stands for."""
        side = 1
        for conv in self.convolutions:
            side *= conv.stride * conv.pool
        return side

    def build(self, hidden_size: int) -> Encoder:
        from ostro.models.ostro.encoder import StemEncoder

        return StemEncoder(self, hidden_size)

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        del values["modality"]
        values["convolutions"] = [asdict(conv) for conv in self.convolutions]
        return values

    @classmethod
    def parse(cls, modality: str, values: object) -> StemConfig:
        """Raises ConfigError."""
        where = f"config.json (ostro): encoders.{modality}"
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where} must be a JSON object, not {values!r}.", param="encoders")
        reader = ConfigReader(values, where)
        listed = reader.optional("convolutions")
        if not isinstance(listed, list) or not all(isinstance(one, Mapping) for one in listed):
            raise ConfigError(f"{where}: 'convolutions' must be a list of objects.", param="convolutions")
        layers = reader.optional("num_layers") or 0
        if type(layers) is not int or not 0 <= layers <= MAX_LAYERS:
            raise ConfigError(
                f"{where}: 'num_layers' must be a whole number from 0 to {MAX_LAYERS}, not {layers!r}.",
                param="num_layers",
            )
        config = cls(
            modality=modality,
            channels=reader.integer("channels", most=_MOST),
            convolutions=tuple(_convolution(one, where) for one in listed),
            num_layers=layers,
            num_heads=reader.integer("num_heads", 1, most=_MOST),
            intermediate_size=reader.integer("intermediate_size", 1, most=_MOST),
            placeholder=reader.integer("placeholder"),
            max_tokens=reader.integer("max_tokens", 4096),
            activation=reader.text("activation", "silu"),
            rope_theta=reader.real("rope_theta", 100.0),
        )
        reader.finish()
        return config


def _convolution(values: Mapping[str, Any], where: str) -> ConvConfig:
    reader = ConfigReader(values, f"{where}: convolutions")
    conv = ConvConfig(
        channels=reader.integer("channels", most=_MOST),
        kernel=reader.integer("kernel", 3, most=1024),
        stride=reader.integer("stride", 1, most=1024),
        pool=reader.integer("pool", 1, most=1024),
        residual=reader.flag("residual") is True,
    )
    reader.finish()
    return conv
