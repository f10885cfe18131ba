"""The model shapes as quantised folders with random weights, as `ostro quantize` writes them."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks.shapes import SHAPES
from ostro.compression.schemes import scheme_of
from ostro.kernels.packed_linear.layout import Packed, Scheme
from ostro.models.mistral.config import parse
from ostro.models.names import hf_names
from ostro.weights.quantised.ostro import PackedWeight, packed_tensors, quantization_config
from ostro.weights.shards import ShardWriter


def make_folder(shape: str, scheme_name: str, root: Path) -> Path:
    """A folder of the shape; made once. Values have a standard deviation of 0.02."""
    folder = root / f"{shape}-{scheme_name}"
    if (folder / "config.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config, scheme = parse(SHAPES[shape]), scheme_of(scheme_name)
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    dim, width = config.hidden_size, config.intermediate_size
    shapes = {
        "embed_tokens": (config.vocab_size, dim),
        "lm_head": (config.vocab_size, dim),
        "q_proj": (q, dim),
        "k_proj": (kv, dim),
        "v_proj": (kv, dim),
        "o_proj": (dim, q),
        "gate_proj": (width, dim),
        "up_proj": (width, dim),
        "down_proj": (dim, width),
    }
    generator = torch.Generator().manual_seed(0)
    writer = ShardWriter(folder)
    packed: dict[str, PackedWeight] = {}
    by_layer: dict[str, dict[str, torch.Tensor]] = {}
    for binding in hf_names(config):
        name = binding.source
        tensors = by_layer.setdefault(".".join(name.split(".")[:3]), {})
        kind = next((key for key in shapes if key in name), None)
        if kind is None:
            tensors[name] = torch.ones(dim)
            continue
        packed[name] = PackedWeight(scheme, shapes[kind])
        tensors |= packed_tensors(name, _random(shapes[kind], scheme, generator))
    for tensors in by_layer.values():
        writer.write(tensors)
    writer.finish()
    values = SHAPES[shape] | {"quantization_config": quantization_config(packed)}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def _random(shape: tuple[int, int], scheme: Scheme, generator: torch.Generator) -> Packed:
    panels, groups = scheme.shapes(*shape)
    codes = torch.randint(0, 256, panels, dtype=torch.uint8, generator=generator)
    # Uniform codes have a standard deviation of their range over sqrt(12).
    scales = torch.full(groups, 0.02 * 12**0.5 / 2**scheme.bits, dtype=torch.float16)
    return Packed(scheme, *shape, codes, scales)
