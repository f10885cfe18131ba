"""The model shapes as GGUF files with random Q4_0 weights: what both sides of a 4-bit comparison load."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from benchmarks.shapes import SHAPES

BLOCK, BLOCK_BYTES = 32, 18


def random_q4_0(rows: int, columns: int, generator: np.random.Generator) -> np.ndarray:
    """Blocks of a float16 scale and 16 bytes of codes; values of a standard deviation of 0.02. [rows, bytes] uint8."""
    blocks = generator.integers(0, 256, (rows, columns // BLOCK, BLOCK_BYTES), dtype=np.uint8)
    scale = np.array([0.02 / 4.6], dtype=np.float16).view(np.uint8)
    blocks[:, :, :2] = scale
    return blocks.reshape(rows, -1)


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
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
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
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".part").rename(path)
    return path
