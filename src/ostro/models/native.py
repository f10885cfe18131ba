"""Native folders: `params.json` beside `consolidated*.safetensors`, for every architecture of the family."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ostro.core.errors import ConfigError
from ostro.models.config import DecoderConfig, EncoderConfig, QueryScaling, YarnConfig
from ostro.models.json_config import MAX_LAYERS, ConfigReader, check_window
from ostro.models.names import NamesTable, native_names
from ostro.models.pixtral.config import PixtralConfig, parse_native_vision
from ostro.models.pixtral.names import native_vision_names
from ostro.models.voxtral.config import VoxtralConfig, parse_native_audio
from ostro.models.voxtral.names import NATIVE_EMBEDDING, native_audio_names

# params.json of the first models says nothing of the context; this is what they were trained for.
DEFAULT_CONTEXT = 32_768


def parse(values: Mapping[str, Any]) -> DecoderConfig:
    """params.json -> DecoderConfig. Raises ConfigError for what it does not know."""
    reader = ConfigReader(values, "params.json")
    for key in ("moe", "q_lora_rank", "kv_lora_rank"):
        if reader.optional(key):
            raise ConfigError(f"params.json: '{key}' is set; only dense decoders are supported so far.", param=key)
    layers, heads, dim = reader.integer("n_layers", most=MAX_LAYERS), reader.integer("n_heads"), reader.integer("dim")
    reader.expect("causal", True)
    reader.expect("use_biases", False, None)
    theta = reader.real("rope_theta", 10_000.0)
    yarn = _yarn(reader.section("yarn"))
    scaling = _query_scaling(reader.section("llama_4_scaling"))
    context = reader.integer("max_position_embeddings", reader.integer("max_seq_len", DEFAULT_CONTEXT))
    reader.ignore(
        (
            "max_seq_len",
            "quantization",
            "model_parallel",
            "ragged_attention",
            "model_type",
            "head",
            "qk_rope_head_dim",
            "qk_nope_head_dim",
            "v_head_dim",
        )
    )
    norm_eps = reader.real("norm_eps", 1e-5)
    vision, audio = reader.section("vision_encoder"), _audio(reader.section("multimodal"))
    config = DecoderConfig(
        architecture="mistral",
        vocab_size=reader.integer("vocab_size"),
        hidden_size=dim,
        intermediate_size=reader.integer("hidden_dim"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=reader.integer("n_kv_heads", heads),
        head_dim=reader.integer("head_dim", dim // heads),
        rms_norm_eps=norm_eps,
        rope_theta=theta,
        max_position_embeddings=context,
        windows=_windows(reader.optional("sliding_window"), layers),
        tie_word_embeddings=reader.flag("tied_embeddings"),
        yarn=yarn,
        query_scaling=scaling,
        encoders=_encoders(vision, audio, norm_eps),
    )
    reader.finish()
    return config


def _audio(multimodal: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if multimodal is None:
        return None
    reader = ConfigReader(multimodal, "params.json: multimodal")
    audio = reader.section("whisper_model_args")
    reader.finish()
    return audio


def _encoders(
    vision: Mapping[str, Any] | None, audio: Mapping[str, Any] | None, norm_eps: float
) -> tuple[EncoderConfig, ...]:
    encoders: list[EncoderConfig] = []
    if vision:
        encoders.append(parse_native_vision(vision, norm_eps))
    if audio:
        encoders.append(parse_native_audio(audio))
    return tuple(encoders)


def _yarn(values: Mapping[str, Any] | None) -> YarnConfig | None:
    if not values:
        return None
    reader = ConfigReader(values, "params.json: yarn")
    yarn = YarnConfig(
        factor=reader.real("factor"),
        original_max_position_embeddings=reader.integer("original_max_position_embeddings"),
        beta_fast=reader.real("beta", 32.0),
        beta_slow=reader.real("alpha", 1.0),
        attention_factor=None if reader.flag("apply_scale") else 1.0,
    )
    reader.finish()
    return yarn


def _query_scaling(values: Mapping[str, Any] | None) -> QueryScaling | None:
    if not values:
        return None
    reader = ConfigReader(values, "params.json: llama_4_scaling")
    scaling = QueryScaling(reader.real("beta"), reader.integer("original_max_position_embeddings"))
    reader.finish()
    return scaling


def _windows(value: object, layers: int) -> tuple[int, ...]:
    """One window for all layers, or a list: one entry a layer, or a pattern that repeats."""
    if not isinstance(value, list):
        return (check_window(value, "params.json"),) * layers
    if not value or layers % len(value):
        raise ConfigError(
            f"params.json: sliding_window has {len(value)} entries, which do not divide {layers} layers.",
            param="sliding_window",
        )
    return tuple(check_window(window, "params.json") for window in value) * (layers // len(value))


def names(config: DecoderConfig) -> NamesTable:
    table = NamesTable(native_names(config))
    for encoder in config.encoders:
        if isinstance(encoder, VoxtralConfig):
            bindings = tuple(
                dataclasses.replace(binding, source=NATIVE_EMBEDDING) if binding.target == "embed" else binding
                for binding in table.bindings
            )
            table = NamesTable(bindings, table.skipped_prefixes).with_encoder(native_audio_names(encoder))
        else:
            assert isinstance(encoder, PixtralConfig)
            table = table.with_encoder(native_vision_names(encoder))
    return table
