"""Tiny checkpoints as GGUF files, written as llama.cpp's converter does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import torch

from tiny_checkpoints import Tiny, interleave

NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def gguf_name(name: str) -> str:
    if name in WHOLE:
        return WHOLE[name]
    _, _, layer, *inner, kind = name.split(".")
    return f"blk.{layer}.{NAMES['.'.join(inner)]}.{kind}"


def quantised(weight: torch.Tensor, kind: str) -> np.ndarray:
    """A matrix as blocks of a ggml type, as the gguf package quantises it."""
    return gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType[kind])


def write(
    tiny: Tiny,
    path: Path,
    kind: str | Callable[[str], str],
    blocks_of: Callable[[torch.Tensor, str], np.ndarray] = quantised,
) -> dict[str, torch.Tensor]:
    """Write a `mistral` checkpoint with matrices of a ggml type, or of one by name; gives the weights that are meant,
    by HF names."""
    config = tiny.reference.config
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    meant: dict[str, torch.Tensor] = {}
    for name, weight in tiny.reference.state_dict().items():
        stored = weight.float()
        if "q_proj" in name or "k_proj" in name:
            stored = interleave(stored, head_dim)
        if stored.dim() == 1:
            writer.add_tensor(gguf_name(name), stored.numpy())
            meant[name] = weight
            continue
        type_name = kind if isinstance(kind, str) else kind(name)
        quantisation = gguf.GGMLQuantizationType[type_name]
        blocks = blocks_of(stored, type_name)
        writer.add_tensor(gguf_name(name), blocks, raw_dtype=quantisation)
        values = torch.from_numpy(np.array(gguf.quants.dequantize(blocks, quantisation))).view(stored.shape)
        if "q_proj" in name or "k_proj" in name:
            pairs = values.view(-1, head_dim // 2, 2, values.shape[1])
            values = pairs.transpose(1, 2).reshape(values.shape)
        meant[name] = values
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant
