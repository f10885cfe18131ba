"""The model shapes as GGUF files with random Q4_0 weights: what both sides of a 4-bit comparison load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import torch

from benchmarks.shapes import SHAPES
from ostro.models.layers.decoder import Decoder
from ostro.weights.writer import hf_tensors

BLOCK, BLOCK_BYTES = 32, 18


def random_q4_0(rows: int, columns: int, generator: np.random.Generator) -> np.ndarray:
    """Blocks of a float16 scale and 16 bytes of codes; values of a standard deviation of 0.02. [rows, bytes] uint8."""
    blocks = generator.integers(0, 256, (rows, columns // BLOCK, BLOCK_BYTES), dtype=np.uint8)
    scale = np.array([0.02 / 4.6], dtype=np.float16).view(np.uint8)
    blocks[:, :, :2] = scale
    return blocks.reshape(rows, -1)


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
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def write_gguf(
    model: Decoder, path: Path, kind: str, describe: Callable[[gguf.GGUFWriter], None] | None = None
) -> None:
    """A model's weights as llama.cpp's converter and its reference quantiser write them. No vocabulary, unless
    `describe` adds one."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    _shape_keys(
        writer,
        context=config.max_position_embeddings,
        hidden=config.hidden_size,
        layers=config.num_layers,
        width=config.intermediate_size,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        theta=config.rope_theta,
        eps=config.rms_norm_eps,
        vocabulary=config.vocab_size,
    )
    if describe is None:
        writer.add_tokenizer_model("no_vocab")
    else:
        describe(writer)
    quantisation = gguf.GGMLQuantizationType[kind]
    for name, weight in hf_tensors(model, torch.float32).items():
        stem, suffix = name.rsplit(".", 1)
        layer, inner = "", stem
        if stem.startswith("model.layers."):
            _, _, number, inner = stem.split(".", 3)
            layer = f"blk.{number}."
        if inner in ("self_attn.q_proj", "self_attn.k_proj"):
            # The converter puts rotary pairs side by side.
            halves = weight.view(-1, 2, config.head_dim // 2, weight.shape[1])
            weight = halves.transpose(1, 2).reshape(weight.shape)
        target = f"{layer}{NAMES[inner]}.{suffix}"
        if weight.dim() == 1:
            writer.add_tensor(target, weight.numpy())
        else:
            blocks = gguf.quants.quantize(weight.contiguous().numpy(), quantisation)
            writer.add_tensor(target, blocks, raw_dtype=quantisation)
    _finish(writer)


def _shape_keys(
    writer: gguf.GGUFWriter,
    *,
    context: int,
    hidden: int,
    layers: int,
    width: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    theta: float,
    eps: float,
    vocabulary: int,
) -> None:
    writer.add_context_length(context)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(theta)
    writer.add_layer_norm_rms_eps(eps)
    writer.add_vocab_size(vocabulary)


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_gguf(shape: str, folder: Path) -> Path:
    """Write a random GGUF of a shape, unless it is there already. It has no vocabulary: it takes token ids."""
    path = folder / f"{shape}-q4_0.gguf"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    config = SHAPES[shape]
    hidden, width = config["hidden_size"], config["intermediate_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = hidden // heads
    writer = gguf.GGUFWriter(path.with_suffix(".part"), "llama")
    writer.add_name(shape)
    _shape_keys(
        writer,
        context=config["max_position_embeddings"],
        hidden=hidden,
        layers=config["num_hidden_layers"],
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        theta=config["rope_theta"],
        eps=config["rms_norm_eps"],
        vocabulary=config["vocab_size"],
    )
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    generator = np.random.default_rng(0)

    def matrix(name: str, rows: int, columns: int) -> None:
        blocks = random_q4_0(rows, columns, generator)
        writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_0)

    def vector(name: str) -> None:
        writer.add_tensor(name, np.ones(hidden, dtype=np.float32))

    matrix("token_embd.weight", config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"blk.{layer}."
        vector(f"{prefix}attn_norm.weight")
        matrix(f"{prefix}attn_q.weight", heads * head_dim, hidden)
        matrix(f"{prefix}attn_k.weight", kv_heads * head_dim, hidden)
        matrix(f"{prefix}attn_v.weight", kv_heads * head_dim, hidden)
        matrix(f"{prefix}attn_output.weight", hidden, heads * head_dim)
        vector(f"{prefix}ffn_norm.weight")
        matrix(f"{prefix}ffn_gate.weight", width, hidden)
        matrix(f"{prefix}ffn_up.weight", width, hidden)
        matrix(f"{prefix}ffn_down.weight", hidden, width)
    vector("output_norm.weight")
    if not config["tie_word_embeddings"]:
        matrix("output.weight", config["vocab_size"], hidden)
    _finish(writer)
    path.with_suffix(".part").rename(path)
    return path
