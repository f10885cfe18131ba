"""`model_type: voxtral`: a decoder's config and a sound encoder's inside one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ostro.core.errors import ConfigError
from ostro.models.config import DecoderConfig
from ostro.models.json_config import MAX_LAYERS, ConfigReader, read_dtype, read_eos
from ostro.models.mistral import config as mistral

if TYPE_CHECKING:
    from ostro.models.layers.encoder import Encoder

ACTIVATIONS = ("gelu", "silu", "gelu_pytorch_tanh")
# Far beyond any encoder: what a config says is made into tensors before the checkpoint's are compared with it.
MAX_SIZE = 1 << 18
AUDIO_TOKEN = 24

_WHERE = "config.json (voxtral)"
# What the reference takes for keys that text_config leaves out. Of its defaults for sizes nothing is taken: they would
# be guesses.
_TEXT_DEFAULTS: Mapping[str, Any] = {
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e8,
}


@dataclass(frozen=True)
class VoxtralConfig:
    """Whisper's encoder over mel frames, and the projector into the decoder.

    positions: rows that a chunk of sound is inside the encoder, two frames each. merge: so many rows become one token.
    stored_positions: whether the checkpoint holds the table of positions; where not, it is Whisper's sinusoids.
    placeholder: the id of `[AUDIO]`.
    """

    modality: ClassVar[str] = "audio"

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    mel_bins: int = 128
    positions: int = 1500
    merge: int = 4
    activation: str = "gelu"
    projector_activation: str = "gelu"
    stored_positions: bool = True
    placeholder: int = AUDIO_TOKEN

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads or self.hidden_size % 2:
            raise ConfigError(
                f"The sound encoder's hidden_size={self.hidden_size} must be even and {self.num_heads} equal heads.",
                param="hidden_size",
            )
        if self.positions % self.merge:
            raise ConfigError(
                f"The sound encoder makes {self.positions} rows of a chunk, of which {self.merge} at a time become a "
                "token; they must come out even.",
                param="max_source_positions",
            )
        for field in ("activation", "projector_activation"):
            if getattr(self, field) not in ACTIVATIONS:
                raise ConfigError(
                    f"The sound encoder's {field} is {getattr(self, field)!r}; known are {', '.join(ACTIVATIONS)}.",
                    param=field,
                )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    def build(self, hidden_size: int) -> Encoder:
        from ostro.models.voxtral.model import VoxtralEncoder

        return VoxtralEncoder(self, hidden_size)


def parse(values: Mapping[str, Any]) -> DecoderConfig:
    """config.json -> DecoderConfig, with a sound encoder. Raises ConfigError for what it does not know."""
    reader = ConfigReader(values, _WHERE)
    text, audio = reader.section("text_config"), reader.section("audio_config")
    for section, name, kind in ((text, "text_config", "llama"), (audio, "audio_config", "voxtral_encoder")):
        if section is None:
            raise ConfigError(f"{_WHERE}: the required key '{name}' is missing.", param=name)
        if section.get("model_type", kind) != kind:
            raise ConfigError(
                f"{_WHERE}: {name} has model_type {section['model_type']!r}; '{kind}' is supported.", param="model_type"
            )
    assert text is not None
    assert audio is not None
    tied = reader.flag("tie_word_embeddings")
    projector = reader.text("projector_hidden_act", "gelu")
    placeholder = reader.integer("audio_token_id", AUDIO_TOKEN)
    # Echoes of the decoder's.
    echoes = {key: reader.optional(key) for key in ("hidden_size", "vocab_size")}
    reader.ignore(("quantization_config", "compression_config"))
    reader.finish()
    config = _parse_text(text)
    for key, echo in echoes.items():
        if echo not in (None, getattr(config, key)):
            raise ConfigError(f"{_WHERE}: {key} is {echo!r}, but text_config has {getattr(config, key)}.", param=key)
    if config.tie_word_embeddings is None or tied is not None:
        config = dataclasses.replace(config, tie_word_embeddings=tied)
    return dataclasses.replace(
        config,
        architecture="voxtral",
        encoders=(_parse_audio(audio, projector, placeholder),),
        dtype=config.dtype or read_dtype(values),
        eos_token_ids=config.eos_token_ids or read_eos(values),
    )


def _parse_text(values: Mapping[str, Any]) -> DecoderConfig:
    """A llama config: as Mistral's, without windows, whatever it says of them."""
    if values.get("sliding_window") is not None:
        raise ConfigError(
            f"{_WHERE}: text_config has sliding_window={values['sliding_window']!r}, which models of type llama do "
            "not have.",
            param="sliding_window",
        )
    return mistral.parse({**values, "sliding_window": None}, _TEXT_DEFAULTS)


def _parse_audio(values: Mapping[str, Any], projector: str, placeholder: int) -> VoxtralConfig:
    reader = ConfigReader(values, f"{_WHERE}: audio_config")
    # Whisper's configs, and older ones of Voxtral, have these under other names.
    hidden = reader.integer("hidden_size", reader.optional("d_model") or 1280, most=MAX_SIZE)
    heads = reader.integer("num_attention_heads", reader.optional("encoder_attention_heads") or 20, most=MAX_SIZE)
    inner = reader.integer("intermediate_size", reader.optional("encoder_ffn_dim") or 5120, most=MAX_SIZE)
    layers = reader.integer("num_hidden_layers", reader.optional("encoder_layers") or 32, most=MAX_LAYERS)
    _check_heads(reader, heads, hidden, _WHERE)
    reader.expect("scale_embedding", False)
    reader.ignore(("vocab_size", "dropout", "activation_dropout", "layerdrop", "encoder_layerdrop"))
    if inner % hidden:
        # What the projector takes is as wide as the feed-forward layer is inside: so the reference groups rows.
        raise ConfigError(
            f"{_WHERE}: audio_config has intermediate_size={inner}, which is no multiple of hidden_size={hidden}.",
            param="intermediate_size",
        )
    config = VoxtralConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_layers=layers,
        num_heads=heads,
        mel_bins=reader.integer("num_mel_bins", 128, most=4096),
        positions=reader.integer("max_source_positions", 1500, most=MAX_SIZE),
        merge=inner // hidden,
        activation=reader.text("activation_function", "gelu"),
        projector_activation=projector,
        placeholder=placeholder,
    )
    reader.finish()
    return config


def parse_native_audio(values: Mapping[str, Any]) -> VoxtralConfig:
    """`multimodal.whisper_model_args` of params.json. Raises ConfigError for what it does not know, among it encoders
    that hear while somebody speaks (causal ones)."""
    where = "params.json: whisper_model_args"
    outer = ConfigReader(values, where)
    encoder = outer.section("encoder_args")
    if encoder is None:
        raise ConfigError(f"{where}: the required key 'encoder_args' is missing.", param="encoder_args")
    merging = ConfigReader(outer.section("downsample_args") or {}, f"{where}: downsample_args")
    merge = merging.integer("downsample_factor", 4, most=64)
    merging.finish()
    outer.finish()
    where = f"{where}: encoder_args"
    reader = ConfigReader(encoder, where)
    for key, *allowed in (
        ("causal", False, None),
        ("use_biases", True, None),
        ("pos_embed", "sinusoidal", None),
        ("ffn_type", "mlp", "gelu", None),
        ("norm_type", "layer_norm", "layernorm", None),
        ("sliding_window", None),
    ):
        reader.expect(key, *allowed)
    hidden, heads = reader.integer("dim", most=MAX_SIZE), reader.integer("n_heads", most=MAX_SIZE)
    _check_heads(reader, heads, hidden, where, dim="head_dim", kv="n_kv_heads")
    if reader.real("norm_eps", 1e-5) != 1e-5:
        raise ConfigError(f"{where}: norm_eps must be 1e-5.", param="norm_eps")
    frames = ConfigReader(reader.section("audio_encoding_args") or {}, f"{where}: audio_encoding_args")
    mel_bins = frames.integer("num_mel_bins", 128, most=4096)
    frames.expect("global_log_mel_max", None)
    frames.expect("transcription_format", "instruct", None)
    # How sounds become frames is in tekken.json too, which is where it is read.
    frames.ignore(("sampling_rate", "frame_rate", "hop_length", "window_size", "chunk_length_s"))
    frames.finish()
    reader.ignore(("vocab_size", "use_cache", "rope_theta"))
    config = VoxtralConfig(
        hidden_size=hidden,
        intermediate_size=reader.integer("hidden_dim", most=MAX_SIZE),
        num_layers=reader.integer("n_layers", most=MAX_LAYERS),
        num_heads=heads,
        mel_bins=mel_bins,
        positions=reader.integer("max_source_positions", 1500, most=MAX_SIZE),
        merge=merge,
        stored_positions=False,
    )
    reader.finish()
    return config


def _check_heads(
    reader: ConfigReader, heads: int, hidden: int, where: str, dim: str = "head_dim", kv: str = "num_key_value_heads"
) -> None:
    """Raises ConfigError for heads that are not the width, or fewer of keys and values than of queries."""
    head_dim, kv_heads = reader.integer(dim, hidden // heads or 1, most=MAX_SIZE), reader.integer(kv, heads)
    if head_dim * heads != hidden or kv_heads != heads:
        raise ConfigError(
            f"{where}: the sound encoder has {heads} heads of {head_dim} ({kv_heads} of keys), which are not its width "
            f"of {hidden}.",
            param=dim,
        )
