"""How much memory the KV cache gets, and how long a sequence may be."""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch

from ostro.core.errors import ConfigError
from ostro.core.options import EngineOptions
from ostro.engine.kv_cache import CacheLayout
from ostro.models.config import DecoderConfig

# Without a figure given, the cache is sized for every slot to hold a conversation of this many tokens.
TYPICAL_LENGTH = 2048


@dataclass(frozen=True)
class CacheSize:
    """num_blocks counts the null block. context: most tokens of one sequence."""

    num_blocks: int
    context: int


def size_cache(
    options: EngineOptions,
    config: DecoderConfig,
    layout: CacheLayout,
    dtype: torch.dtype,
    device: torch.device,
) -> CacheSize:
    """Blocks within the memory given, or within a quarter of what is free. Raises ConfigError where that is too little
    for `max_model_len`, or for a single block."""
    wanted = min(options.max_model_len or config.max_position_embeddings, config.max_position_embeddings)
    if options.max_model_len is not None and options.max_model_len > config.max_position_embeddings:
        raise ConfigError(
            f"max_model_len={options.max_model_len} is more than the model's context of "
            f"{config.max_position_embeddings} tokens.",
            param="max_model_len",
        )
    block_bytes = layout.block_bytes(dtype)
    if options.kv_memory is None:
        memory = min(typical_memory(options, wanted, block_bytes), free_memory(device) // 4)
    else:
        memory = options.kv_memory
    blocks = memory // block_bytes
    capacity = blocks * layout.block_size
    if options.max_model_len is not None and capacity < wanted:
        needed = -(-wanted // layout.block_size) * block_bytes
        raise ConfigError(
            f"The KV cache may take {memory} bytes, which hold {capacity} tokens; max_model_len={wanted} needs "
            f"{needed}. Raise kv_memory or lower max_model_len.",
            param="kv_memory",
        )
    if blocks < 1:
        raise ConfigError(
            f"The KV cache may take {memory} bytes, but one block of {layout.block_size} tokens takes {block_bytes}. "
            "Raise kv_memory.",
            param="kv_memory",
        )
    return CacheSize(int(blocks) + 1, int(min(wanted, capacity)))


def typical_memory(options: EngineOptions, context: int, block_bytes: int) -> int:
    """Bytes of a cache in which every slot can hold a usual conversation, or one sequence the whole context."""
    tokens = max(options.max_num_seqs * min(context, TYPICAL_LENGTH), context)
    return tokens * block_bytes // options.block_size + block_bytes


def free_memory(device: torch.device) -> int:
    """Bytes that could be allocated on the device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
