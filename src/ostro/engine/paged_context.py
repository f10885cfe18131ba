"""The context of a forward pass over the paged cache: a flat batch of decode rows and prefill chunks."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ostro.engine.kv_cache import KVCache
from ostro.kernels.paged_attention import chunk_attention, paged_attention
from ostro.kernels.rope_write import rope_write
from ostro.models.layers.context import AttentionSpec
from ostro.models.layers.rotary import Rotation


@dataclass(frozen=True)
class Chunk:
    """Rows [begin, end) of the flat batch: one sequence from position `start`."""

    begin: int
    end: int
    start: int
    blocks: list[torch.Tensor]


class PagedContext:
    """short_rows: leading rows of the batch that attend one by one; each of `chunks` attends as one piece.

    slots and tables have one entry a cache group: slots [T] int64, tables [sequences, blocks] int32.
    """

    def __init__(
        self,
        cache: KVCache,
        positions_T: torch.Tensor,
        row_sequence_T: torch.Tensor,
        slots: list[torch.Tensor],
        tables: list[torch.Tensor],
        short_rows: int,
        chunks: list[Chunk],
        modalities_T: torch.Tensor | None = None,
    ) -> None:
        self.modalities_T = modalities_T
        self.cache = cache
        self.positions_T = positions_T
        self.row_sequence_T = row_sequence_T
        self.slots = slots
        self.tables = tables
        self.short_rows = short_rows
        self.chunks = chunks

    def attend(self, spec: AttentionSpec, qkv_TE: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        group = self.cache.layout.group_of[spec.layer]
        keys, values = self.cache.keys[spec.layer], self.cache.values[spec.layer]
        q_THD = rope_write(
            qkv_TE, rotation.cos, rotation.sin, rotation.q_scale, self.slots[group], keys, values, spec.heads
        )
        if not self.chunks:
            return self._short(q_THD, spec, group, keys, values).flatten(1)
        out_THD = torch.empty(q_THD.shape, dtype=q_THD.dtype, device=q_THD.device)
        if self.short_rows:
            out_THD[: self.short_rows] = self._short(q_THD[: self.short_rows], spec, group, keys, values)
        for chunk in self.chunks:
            out_THD[chunk.begin : chunk.end] = chunk_attention(
                q_THD[chunk.begin : chunk.end],
                keys,
                values,
                chunk.blocks[group],
                chunk.start,
                self.cache.layout.block_size,
                spec.window,
                spec.scale,
            )
        return out_THD.flatten(1)

    def residual(self, branch_TD: torch.Tensor) -> torch.Tensor:
        return branch_TD

    def _short(
        self, q_THD: torch.Tensor, spec: AttentionSpec, group: int, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        return paged_attention(
            q_THD,
            keys,
            values,
            self.tables[group],
            self.positions_T[: self.short_rows],
            self.row_sequence_T[: self.short_rows],
            self.cache.layout.block_size,
            spec.window,
            spec.scale,
        )
