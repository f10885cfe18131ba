"""Tensor names of Voxtral checkpoints, in all layouts."""

from __future__ import annotations

from collections.abc import Mapping

from ostro.models.config import DecoderConfig
from ostro.models.names import Binding, NamesTable, hf_names
from ostro.models.voxtral.config import VoxtralConfig

_TARGET = "encoders.audio."
_NATIVE = "mm_whisper_embeddings."
# Where the native layout keeps the decoder's embedding.
NATIVE_EMBEDDING = f"{_NATIVE}tok_embeddings.weight"

_HF_LAYER = {
    "attention_norm": "self_attn_layer_norm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.out_proj",
    "feed_forward_norm": "final_layer_norm",
    "up": "fc1",
    "down": "fc2",
}
_NATIVE_LAYER = {
    "attention_norm": "attention_norm",
    "query": "attention.wq",
    "key": "attention.wk",
    "value": "attention.wv",
    "output": "attention.wo",
    "feed_forward_norm": "ffn_norm",
    "up": "feed_forward.w1",
    "down": "feed_forward.w2",
}


def names(config: DecoderConfig) -> NamesTable:
    """As the hub's checkpoints name them, and transformers saves them."""
    return _with_sounds(NamesTable(hf_names(config, "language_model.model.", "language_model.lm_head.weight")), config)


def module_names(config: DecoderConfig) -> NamesTable:
    """As the modules of transformers are named since version 5, for files that were written without its renaming."""
    return _with_sounds(NamesTable(hf_names(config, "model.language_model.")), config, "model.")


def native_audio_names(config: VoxtralConfig) -> tuple[Binding, ...]:
    """Native layout. No rotary embedding, so no heads to reorder; no table of positions."""
    encoder = f"{_NATIVE}whisper_encoder."
    return (
        *_both(f"{encoder}conv_layers.0", "first"),
        *_both(f"{encoder}conv_layers.1", "second"),
        *_layers(config, f"{encoder}transformer.layers.", _NATIVE_LAYER),
        *_norm(f"{encoder}transformer.norm", "norm"),
        Binding(f"{_NATIVE}audio_language_projection.0.weight", f"{_TARGET}projector.first"),
        Binding(f"{_NATIVE}audio_language_projection.2.weight", f"{_TARGET}projector.second"),
    )


def _with_sounds(table: NamesTable, config: DecoderConfig, prefix: str = "") -> NamesTable:
    for encoder in config.encoders:
        assert isinstance(encoder, VoxtralConfig)
        tower, projector = f"{prefix}audio_tower.", f"{prefix}multi_modal_projector."
        rows = (
            *_both(f"{tower}conv1", "first"),
            *_both(f"{tower}conv2", "second"),
            Binding(f"{tower}embed_positions.weight", f"{_TARGET}positions"),
            *_layers(encoder, f"{tower}layers.", _HF_LAYER),
            *_norm(f"{tower}layer_norm", "norm"),
            Binding(f"{projector}linear_1.weight", f"{_TARGET}projector.first"),
            Binding(f"{projector}linear_2.weight", f"{_TARGET}projector.second"),
        )
        table = table.with_encoder(rows)
    return table


def _layers(config: VoxtralConfig, prefix: str, layer: Mapping[str, str]) -> list[Binding]:
    rows = []
    for i in range(config.num_layers):
        source, target = f"{prefix}{i}.", f"layers.{i}."
        rows += [
            *_norm(f"{source}{layer['attention_norm']}", f"{target}attention_norm"),
            *_both(f"{source}{layer['query']}", f"{target}qkv", "q"),
            # Keys have no bias.
            Binding(f"{source}{layer['key']}.weight", f"{_TARGET}{target}qkv", "k"),
            *_both(f"{source}{layer['value']}", f"{target}qkv", "v"),
            *_both(f"{source}{layer['output']}", f"{target}output"),
            *_norm(f"{source}{layer['feed_forward_norm']}", f"{target}feed_forward_norm"),
            *_both(f"{source}{layer['up']}", f"{target}up"),
            *_both(f"{source}{layer['down']}", f"{target}down"),
        ]
    return rows


def _both(source: str, target: str, part: str | None = None) -> tuple[Binding, Binding]:
    return (
        Binding(f"{source}.weight", f"{_TARGET}{target}", part),
        Binding(f"{source}.bias", f"{_TARGET}{target}.bias", part),
    )


def _norm(source: str, target: str) -> tuple[Binding, Binding]:
    return (
        Binding(f"{source}.weight", f"{_TARGET}{target}.scale"),
        Binding(f"{source}.bias", f"{_TARGET}{target}.shift"),
    )
