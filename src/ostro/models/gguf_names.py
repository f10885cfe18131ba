"""Tensor names of GGUF files, as llama.cpp's converter gives them."""

from __future__ import annotations

from ostro.core.errors import ConfigError
from ostro.models.config import DecoderConfig
from ostro.models.names import Binding, NamesTable

# Both rotate neighbouring pairs: llama.cpp runs them with LLAMA_ROPE_TYPE_NORM ("rope type = 0" in its log). Its
# converter permutes q and k of Hugging Face checkpoints back to that order (conversion/llama.py, `undo_permute`,
# inherited by conversion/mistral3.py), and leaves native checkpoints as they are, because they have it already.
ARCHITECTURES = ("llama", "mistral3")


def gguf_names(config: DecoderConfig, architecture: str) -> NamesTable:
    """Where the tensors of a file of `general.architecture` go. Raises ConfigError for one that is not known."""
    if architecture not in ARCHITECTURES:
        raise ConfigError(
            f"There is no table of tensor names for GGUF files of {architecture!r}; there is for "
            f"{' and '.join(ARCHITECTURES)}.",
            param="general.architecture",
        )
    rows = [
        Binding("token_embd.weight", "embed"),
        Binding("output_norm.weight", "norm"),
        Binding("output.weight", "head"),
    ]
    for i in range(config.num_layers):
        source, target = f"blk.{i}.", f"layers.{i}."
        rows += [
            Binding(f"{source}attn_norm.weight", f"{target}attention_norm"),
            Binding(f"{source}attn_q.weight", f"{target}attention.qkv", "q", interleaved_heads=True),
            Binding(f"{source}attn_k.weight", f"{target}attention.qkv", "k", interleaved_heads=True),
            Binding(f"{source}attn_v.weight", f"{target}attention.qkv", "v"),
            Binding(f"{source}attn_output.weight", f"{target}attention.output"),
            Binding(f"{source}ffn_norm.weight", f"{target}feed_forward_norm"),
            Binding(f"{source}ffn_gate.weight", f"{target}feed_forward.gate_up", "gate"),
            Binding(f"{source}ffn_up.weight", f"{target}feed_forward.gate_up", "up"),
            Binding(f"{source}ffn_down.weight", f"{target}feed_forward.down"),
        ]
    return NamesTable(tuple(rows))
