"""Tensor names of the image encoder, in both layouts."""

from __future__ import annotations

from ostro.models.names import Binding
from ostro.models.pixtral.config import PixtralConfig

_TARGET = "encoders.image."


def hf_vision_names(config: PixtralConfig, prefix: str = "") -> tuple[Binding, ...]:
    """Hugging Face layout. prefix: "model." as transformers saves them since version 4.52."""
    tower, projector = f"{prefix}vision_tower.", f"{prefix}multi_modal_projector."
    rows = [
        Binding(f"{tower}patch_conv.weight", f"{_TARGET}patches"),
        Binding(f"{tower}ln_pre.weight", f"{_TARGET}norm"),
    ]
    for i in range(config.num_layers):
        source, target = f"{tower}transformer.layers.{i}.", f"{_TARGET}layers.{i}."
        rows += [
            Binding(f"{source}attention_norm.weight", f"{target}attention_norm"),
            Binding(f"{source}attention.q_proj.weight", f"{target}qkv", "q"),
            Binding(f"{source}attention.k_proj.weight", f"{target}qkv", "k"),
            Binding(f"{source}attention.v_proj.weight", f"{target}qkv", "v"),
            Binding(f"{source}attention.o_proj.weight", f"{target}output"),
            Binding(f"{source}ffn_norm.weight", f"{target}feed_forward_norm"),
            Binding(f"{source}feed_forward.gate_proj.weight", f"{target}gate_up", "gate"),
            Binding(f"{source}feed_forward.up_proj.weight", f"{target}gate_up", "up"),
            Binding(f"{source}feed_forward.down_proj.weight", f"{target}down"),
        ]
    return (
        *rows,
        *_projector(
            config,
            norm=f"{projector}norm.weight",
            merging=f"{projector}patch_merger.merging_layer.weight",
            first=f"{projector}linear_1",
            second=f"{projector}linear_2",
        ),
    )


def native_vision_names(config: PixtralConfig) -> tuple[Binding, ...]:
    """Native layout: q and k with interleaved rotary pairs."""
    dim = config.head_dim
    rows = [
        Binding("vision_encoder.patch_conv.weight", f"{_TARGET}patches"),
        Binding("vision_encoder.ln_pre.weight", f"{_TARGET}norm"),
    ]
    for i in range(config.num_layers):
        source, target = f"vision_encoder.transformer.layers.{i}.", f"{_TARGET}layers.{i}."
        rows += [
            Binding(f"{source}attention_norm.weight", f"{target}attention_norm"),
            Binding(f"{source}attention.wq.weight", f"{target}qkv", "q", interleaved_heads=True, head_dim=dim),
            Binding(f"{source}attention.wk.weight", f"{target}qkv", "k", interleaved_heads=True, head_dim=dim),
            Binding(f"{source}attention.wv.weight", f"{target}qkv", "v"),
            Binding(f"{source}attention.wo.weight", f"{target}output"),
            Binding(f"{source}ffn_norm.weight", f"{target}feed_forward_norm"),
            Binding(f"{source}feed_forward.w1.weight", f"{target}gate_up", "gate"),
            Binding(f"{source}feed_forward.w3.weight", f"{target}gate_up", "up"),
            Binding(f"{source}feed_forward.w2.weight", f"{target}down"),
        ]
    return (
        *rows,
        *_projector(
            config,
            norm="pre_mm_projector_norm.weight",
            merging="patch_merger.merging_layer.weight",
            first="vision_language_adapter.w_in",
            second="vision_language_adapter.w_out",
        ),
    )


def _projector(config: PixtralConfig, *, norm: str, merging: str, first: str, second: str) -> list[Binding]:
    rows = []
    if config.projector_norm:
        rows.append(Binding(norm, f"{_TARGET}projector_norm"))
    if config.merge > 1:
        rows.append(Binding(merging, f"{_TARGET}merging"))
    for source, layer in ((first, "first"), (second, "second")):
        rows.append(Binding(f"{source}.weight", f"{_TARGET}projector.{layer}"))
        if config.projector_bias:
            rows.append(Binding(f"{source}.bias", f"{_TARGET}projector.{layer}.bias"))
    return rows
