"""paged_attention: rows of queries over blocks of cached keys and values."""

from __future__ import annotations

import torch

from ostro.kernels.dispatch import NATIVE_DTYPES, native, use_native
from ostro.kernels.paged_attention.gathered import gathered_attention
from ostro.kernels.paged_attention.prefill import chunk_attention

__all__ = ["chunk_attention", "paged_attention"]


def paged_attention(
    q_THD: torch.Tensor,
    k_cache_SKD: torch.Tensor,
    v_cache_SKD: torch.Tensor,
    block_table_NB: torch.Tensor,
    positions_T: torch.Tensor,
    row_sequence_T: torch.Tensor,
    block_size: int,
    window: int,
    scale: float,
) -> torch.Tensor:
    """Each query row attends to its sequence's cached positions up to its own.

    q [T, H, D] (rows may be strided), caches [S, K, D] with S = blocks * block_size, block_table [N, B] int32,
    positions [T] int64, row_sequence [T] int32 (row of the block table), window 0 for full attention.
    Returns [T, H, D], contiguous.
    """
    if use_native(q_THD, k_cache_SKD, v_cache_SKD) and q_THD.stride(2) == 1 and q_THD.stride(1) == q_THD.shape[2]:
        assert positions_T.dtype == torch.int64
        assert block_table_NB.dtype == row_sequence_T.dtype == torch.int32
        out_THD = torch.empty(q_THD.shape, dtype=q_THD.dtype)
        rows, heads, head_dim = q_THD.shape
        native.paged_attention(
            NATIVE_DTYPES[q_THD.dtype],
            out_THD.data_ptr(),
            q_THD.data_ptr(),
            q_THD.stride(0),
            k_cache_SKD.data_ptr(),
            v_cache_SKD.data_ptr(),
            block_table_NB.data_ptr(),
            block_table_NB.stride(0),
            positions_T.data_ptr(),
            row_sequence_T.data_ptr(),
            rows,
            heads,
            k_cache_SKD.shape[1],
            head_dim,
            block_size,
            window,
            scale,
        )
        return out_THD
    return gathered_attention(
        q_THD,
        k_cache_SKD,
        v_cache_SKD,
        block_table_NB,
        positions_T,
        row_sequence_T,
        block_size,
        window,
        scale,
    )
