"""The memory of the KV cache: how layers are grouped, how many blocks fit, the tensors themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ostro.core.options import EngineOptions
from ostro.kernels.paged_attention.cache_rows import row_size
from ostro.models.layers.context import AttentionSpec, CacheSpec


@dataclass(frozen=True)
class CacheLayout:
    """Layers with equal specs share a group. `groups` are the specs, `group_of` has one entry a layer."""

    groups: tuple[CacheSpec, ...]
    group_of: tuple[int, ...]
    block_size: int

    @classmethod
    def of(cls, specs: list[AttentionSpec], block_size: int) -> CacheLayout:
        groups = tuple(dict.fromkeys(spec.cache for spec in specs))
        return cls(groups, tuple(groups.index(spec.cache) for spec in specs), block_size)

    @property
    def windows(self) -> tuple[int, ...]:
        return tuple(spec.window for spec in self.groups)

    def block_bytes(self, dtype: torch.dtype) -> int:
        """Bytes that one block of every group takes together: keys and values of all layers."""
        specs = [self.groups[group] for group in self.group_of]
        elements = sum(2 * spec.kv_heads * row_size(spec.head_dim, dtype) for spec in specs)
        return elements * self.block_size * dtype.itemsize


class KVCache:
    """Keys and values: per layer two tensors [blocks * block_size, kv_heads, row], rows as cache_rows.py says."""

    def __init__(self, layout: CacheLayout, num_blocks: int, dtype: torch.dtype, device: torch.device) -> None:
        self.layout = layout
        self.num_blocks = num_blocks
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        for group in layout.group_of:
            spec = layout.groups[group]
            shape = (num_blocks * layout.block_size, spec.kv_heads, row_size(spec.head_dim, dtype))
            self.keys.append(_zeros(shape, dtype, device))
            self.values.append(_zeros(shape, dtype, device))


def pick_kv_dtype(options: EngineOptions, activations: torch.dtype, quantised: bool) -> torch.dtype:
    """What the cache holds. quantised: whether the model's weights are integers, which run on a CPU in float32."""
    if options.kv_dtype == "auto":
        return torch.float16 if quantised else activations
    found: torch.dtype = getattr(torch, options.kv_dtype)
    return found


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros, so that masked positions hold finite numbers. On a CPU untouched pages take no memory until written."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = int(np.prod(shape)) * dtype.itemsize
    return torch.from_numpy(np.zeros(size, dtype=np.uint8)).view(dtype).view(shape)
