"""Tensor names of a checkpoint as a table: which file tensor fills which part of which parameter."""

from __future__ import annotations

from dataclasses import dataclass

from ostro.models.config import DecoderConfig


@dataclass(frozen=True)
class Binding:
    """`source` in the file fills `target` (a module's path); `part` is a named slice of a stacked weight.

    interleaved_heads: the tensor's heads hold rotary pairs side by side (native layout); they are reordered for
    rotate-half. head_dim: of those heads; 0 is the decoder's.
    """

    source: str
    target: str
    part: str | None = None
    interleaved_heads: bool = False
    head_dim: int = 0


@dataclass(frozen=True)
class NamesTable:
    """All bindings of one checkpoint layout, and the prefixes that belong to the model but are not loaded."""

    bindings: tuple[Binding, ...]
    skipped_prefixes: tuple[str, ...] = ()

    def with_encoder(self, bindings: tuple[Binding, ...]) -> NamesTable:
        """The table with those of an encoder."""
        return NamesTable(self.bindings + bindings, self.skipped_prefixes)

    @property
    def head(self) -> str:
        """The output head's name in the file."""
        return next(binding.source for binding in self.bindings if binding.target == "head")


def hf_names(config: DecoderConfig, prefix: str = "model.", head: str = "lm_head.weight") -> tuple[Binding, ...]:
    """Hugging Face layout: separate projections, rotate-half order."""
    rows = [
        Binding(f"{prefix}embed_tokens.weight", "embed"),
        Binding(f"{prefix}norm.weight", "norm"),
        Binding(head, "head"),
    ]
    for i in range(config.num_layers):
        source, target = f"{prefix}layers.{i}.", f"layers.{i}."
        rows += [
            Binding(f"{source}input_layernorm.weight", f"{target}attention_norm"),
            Binding(f"{source}self_attn.q_proj.weight", f"{target}attention.qkv", "q"),
            Binding(f"{source}self_attn.k_proj.weight", f"{target}attention.qkv", "k"),
            Binding(f"{source}self_attn.v_proj.weight", f"{target}attention.qkv", "v"),
            Binding(f"{source}self_attn.o_proj.weight", f"{target}attention.output"),
            Binding(f"{source}post_attention_layernorm.weight", f"{target}feed_forward_norm"),
            Binding(f"{source}mlp.gate_proj.weight", f"{target}feed_forward.gate_up", "gate"),
            Binding(f"{source}mlp.up_proj.weight", f"{target}feed_forward.gate_up", "up"),
            Binding(f"{source}mlp.down_proj.weight", f"{target}feed_forward.down"),
        ]
    return tuple(rows)


def native_names(config: DecoderConfig) -> tuple[Binding, ...]:
    """Native (`consolidated*.safetensors`) layout: q and k with interleaved rotary pairs."""
    rows = [
        Binding("tok_embeddings.weight", "embed"),
        Binding("norm.weight", "norm"),
        Binding("output.weight", "head"),
    ]
    for i in range(config.num_layers):
        path = f"layers.{i}."
        rows += [
            Binding(f"{path}attention_norm.weight", f"{path}attention_norm"),
            Binding(f"{path}attention.wq.weight", f"{path}attention.qkv", "q", interleaved_heads=True),
            Binding(f"{path}attention.wk.weight", f"{path}attention.qkv", "k", interleaved_heads=True),
            Binding(f"{path}attention.wv.weight", f"{path}attention.qkv", "v"),
            Binding(f"{path}attention.wo.weight", f"{path}attention.output"),
            Binding(f"{path}ffn_norm.weight", f"{path}feed_forward_norm"),
            Binding(f"{path}feed_forward.w1.weight", f"{path}feed_forward.gate_up", "gate"),
            Binding(f"{path}feed_forward.w3.weight", f"{path}feed_forward.gate_up", "up"),
            Binding(f"{path}feed_forward.w2.weight", f"{path}feed_forward.down"),
        ]
    return tuple(rows)
