"""paged_attention: rows of queries over blocks of cached keys and values."""

from __future__ import annotations

import torch

from ostro.kernels.dispatch import KV_TYPES, NATIVE_DTYPES, native, use_native
from ostro.kernels.paged_attention import prefill
from ostro.kernels.paged_attention.cache_rows import head_dim_of
from ostro.kernels.paged_attention.gathered import gathered_attention

__all__ = ["chunk_attention", "paged_attention"]


def _native_may(q_THD: torch.Tensor, k_cache_SKR: torch.Tensor, v_cache_SKR: torch.Tensor) -> bool:
    assert k_cache_SKR.shape == v_cache_SKR.shape
    assert q_THD.shape[1] % k_cache_SKR.shape[1] == 0
    return (
        use_native(q_THD)
        and k_cache_SKR.is_contiguous()
        and v_cache_SKR.is_contiguous()
        and k_cache_SKR.dtype in KV_TYPES
        and v_cache_SKR.dtype == k_cache_SKR.dtype
        and q_THD.stride(2) == 1
        and q_THD.stride(1) == q_THD.shape[2] == head_dim_of(k_cache_SKR)
    )


def paged_attention(
    q_THD: torch.Tensor,
    k_cache_SKR: torch.Tensor,
    v_cache_SKR: torch.Tensor,
    block_table_NB: torch.Tensor,
    positions_T: torch.Tensor,
    row_sequence_T: torch.Tensor,
    block_size: int,
    window: int,
    scale: float,
) -> torch.Tensor:
    """Each query row attends to its sequence's cached positions up to its own.

    q [T, H, D] (rows may be strided), caches [S, K, R] with S = blocks * block_size and rows as cache_rows.py says, of
    a type of their own, block_table [N, B] int32, positions [T] int64, row_sequence [T] int32 (row of the block
    table), window 0 for full attention. Returns [T, H, D], contiguous.
    """
    if _native_may(q_THD, k_cache_SKR, v_cache_SKR):
        assert positions_T.dtype == torch.int64
        assert block_table_NB.dtype == row_sequence_T.dtype == torch.int32
        assert block_table_NB.stride(1) == 1
        assert positions_T.shape == row_sequence_T.shape == q_THD.shape[:1]
        assert positions_T.is_contiguous()
        assert row_sequence_T.is_contiguous()
        out_THD = torch.empty(q_THD.shape, dtype=q_THD.dtype)
        rows, heads, head_dim = q_THD.shape
        native.paged_attention(
            NATIVE_DTYPES[q_THD.dtype],
            out_THD.data_ptr(),
            q_THD.data_ptr(),
            q_THD.stride(0),
            k_cache_SKR.data_ptr(),
            v_cache_SKR.data_ptr(),
            KV_TYPES[k_cache_SKR.dtype],
            block_table_NB.data_ptr(),
            block_table_NB.stride(0),
            positions_T.data_ptr(),
            row_sequence_T.data_ptr(),
            rows,
            heads,
            k_cache_SKR.shape[1],
            head_dim,
            block_size,
            window,
            scale,
        )
        return out_THD
    return gathered_attention(
        q_THD,
        k_cache_SKR,
        v_cache_SKR,
        block_table_NB,
        positions_T,
        row_sequence_T,
        block_size,
        window,
        scale,
    )


def chunk_attention(
    q_QHD: torch.Tensor,
    k_cache_SKR: torch.Tensor,
    v_cache_SKR: torch.Tensor,
    blocks_B: torch.Tensor,
    start: int,
    block_size: int,
    window: int,
    scale: float,
) -> torch.Tensor:
    """Queries at positions start .. start + Q of one sequence over all it has cached: [Q, H, D] -> [Q, H, D].

    blocks [B] int32 are the sequence's; the rest is as in `paged_attention`.
    """
    if not _native_may(q_QHD, k_cache_SKR, v_cache_SKR):
        return prefill.chunk_attention(q_QHD, k_cache_SKR, v_cache_SKR, blocks_B, start, block_size, window, scale)
    assert blocks_B.dtype == torch.int32
    assert blocks_B.is_contiguous()
    rows, heads, head_dim = q_QHD.shape
    out_QHD = torch.empty(q_QHD.shape, dtype=q_QHD.dtype)
    native.chunk_attention(
        NATIVE_DTYPES[q_QHD.dtype],
        out_QHD.data_ptr(),
        q_QHD.data_ptr(),
        q_QHD.stride(0),
        k_cache_SKR.data_ptr(),
        v_cache_SKR.data_ptr(),
        KV_TYPES[k_cache_SKR.dtype],
        blocks_B.data_ptr(),
        start,
        rows,
        heads,
        k_cache_SKR.shape[1],
        head_dim,
        block_size,
        window,
        scale,
    )
    return out_QHD
