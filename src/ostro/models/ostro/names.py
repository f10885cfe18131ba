"""Tensor names: a dense decoder's in the Hugging Face layout, and those of what is switched on."""

from __future__ import annotations

from ostro.models.config import DecoderConfig
from ostro.models.names import Binding, NamesTable, hf_names
from ostro.models.ostro.config import OstroConfig
from ostro.models.ostro.stems import StemConfig


def names(config: DecoderConfig) -> NamesTable:
    assert isinstance(config, OstroConfig)
    rows = [binding for binding in hf_names(config) if config.gate is None or ".feed_forward." not in binding.target]
    for i in range(config.num_layers):
        source, target = f"model.layers.{i}.", f"layers.{i}."
        if config.routing:
            rows.append(Binding(f"{source}self_attn.router.weight", f"{target}attention.router"))
        for s in range(0 if config.gate is None else len(config.gate.widths)):
            inner, module = f"{source}mlp.segments.{s}.", f"{target}feed_forward.segments.{s}."
            rows += [
                Binding(f"{inner}gate_proj.weight", f"{module}gate_up", "gate"),
                Binding(f"{inner}up_proj.weight", f"{module}gate_up", "up"),
                Binding(f"{inner}down_proj.weight", f"{module}down"),
            ]
    if config.gate is not None:
        rows += [
            Binding("model.width_gate.norm.weight", "gate.norm"),
            Binding("model.width_gate.score.weight", "gate.score"),
            Binding("model.width_gate.score.bias", "gate.score.bias"),
        ]
    if config.labels:
        rows += [Binding("label_head.weight", "label_head"), Binding("label_head.bias", "label_head.bias")]
    if config.embedding:
        rows.append(Binding("embedding_head.weight", "embedding_head"))
    for encoder in config.encoders:
        assert isinstance(encoder, StemConfig)
        rows += _encoder(encoder)
        if config.adapter is not None:
            source, target = f"model.adapters.{encoder.modality}.", f"adapters.{encoder.modality}."
            rows += [Binding(f"{source}{part}.weight", f"{target}{part}") for part in ("norm", "down", "up")]
    return NamesTable(tuple(rows))


def _encoder(config: StemConfig) -> list[Binding]:
    source, target = f"model.encoders.{config.modality}.", f"encoders.{config.modality}."
    rows = []
    for i in range(len(config.convolutions)):
        rows += [
            Binding(f"{source}stem.{i}.weight", f"{target}stem.{i}.kernel"),
            Binding(f"{source}stem.{i}.scale", f"{target}stem.{i}.scale"),
            Binding(f"{source}stem.{i}.shift", f"{target}stem.{i}.shift"),
        ]
    for i in range(config.num_layers):
        layer, module = f"{source}layers.{i}.", f"{target}layers.{i}."
        rows += [
            Binding(f"{layer}input_layernorm.weight", f"{module}attention_norm"),
            Binding(f"{layer}self_attn.q_proj.weight", f"{module}qkv", "q"),
            Binding(f"{layer}self_attn.k_proj.weight", f"{module}qkv", "k"),
            Binding(f"{layer}self_attn.v_proj.weight", f"{module}qkv", "v"),
            Binding(f"{layer}self_attn.o_proj.weight", f"{module}output"),
            Binding(f"{layer}post_attention_layernorm.weight", f"{module}feed_forward_norm"),
            Binding(f"{layer}mlp.gate_proj.weight", f"{module}gate_up", "gate"),
            Binding(f"{layer}mlp.up_proj.weight", f"{module}gate_up", "up"),
            Binding(f"{layer}mlp.down_proj.weight", f"{module}down"),
        ]
    rows += [
        Binding(f"{source}norm.weight", f"{target}norm"),
        Binding(f"{source}projector.linear_1.weight", f"{target}projector.first"),
        Binding(f"{source}projector.linear_2.weight", f"{target}projector.second"),
    ]
    return rows
