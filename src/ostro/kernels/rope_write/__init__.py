"""rope_write: rotate queries and keys, write keys and values to their cache slots."""

from __future__ import annotations

import torch

from ostro.kernels.dispatch import KV_TYPES, NATIVE_DTYPES, native, use_native
from ostro.kernels.paged_attention.cache_rows import encode, head_dim_of
from ostro.kernels.rope_write import reference


def rope_write(
    qkv_TE: torch.Tensor,
    cos_Td: torch.Tensor,
    sin_Td: torch.Tensor,
    q_scale_T: torch.Tensor | None,
    slots_T: torch.Tensor,
    k_cache_SKR: torch.Tensor,
    v_cache_SKR: torch.Tensor,
    heads: int,
) -> torch.Tensor:
    """Rotate and store one layer's projections.

    qkv [T, (H + 2K) * D] (may be overwritten), cos and sin [T, D/2] float32, q_scale [T] float32 or None,
    slots [T] int64 rows of the caches [S, K, R], which are written in the caches' type. Returns rotated, scaled q as
    [T, H, D], a view that may be strided by qkv's row.
    """
    kv_heads, head_dim = k_cache_SKR.shape[1], head_dim_of(k_cache_SKR)
    one_type = k_cache_SKR.dtype == v_cache_SKR.dtype
    if use_native(qkv_TE) and one_type and k_cache_SKR.dtype in KV_TYPES and qkv_TE.is_contiguous():
        rows = qkv_TE.shape[0]
        assert qkv_TE.shape[1] == (heads + 2 * kv_heads) * head_dim
        assert slots_T.dtype == torch.int64
        assert slots_T.shape == (rows,)
        assert slots_T.is_contiguous()
        for table_Td in (cos_Td, sin_Td):
            assert table_Td.dtype == torch.float32
            assert table_Td.shape == (rows, head_dim // 2)
            assert table_Td.is_contiguous()
        if q_scale_T is not None:
            assert q_scale_T.dtype == torch.float32
            assert q_scale_T.shape == (rows,)
            assert q_scale_T.is_contiguous()
        assert k_cache_SKR.shape == v_cache_SKR.shape
        assert k_cache_SKR.is_contiguous()
        assert v_cache_SKR.is_contiguous()
        native.rope_write(
            NATIVE_DTYPES[qkv_TE.dtype],
            qkv_TE.data_ptr(),
            cos_Td.data_ptr(),
            sin_Td.data_ptr(),
            0 if q_scale_T is None else q_scale_T.data_ptr(),
            slots_T.data_ptr(),
            k_cache_SKR.data_ptr(),
            v_cache_SKR.data_ptr(),
            KV_TYPES[k_cache_SKR.dtype],
            rows,
            heads,
            kv_heads,
            head_dim,
        )
        return qkv_TE.view(-1, heads + 2 * kv_heads, head_dim)[:, :heads]
    q_THD, k_TKD, v_TKD = reference.split_rotate(qkv_TE, cos_Td, sin_Td, q_scale_T, heads, kv_heads)
    k_cache_SKR[slots_T] = encode(k_TKD, k_cache_SKR.dtype)
    v_cache_SKR[slots_T] = encode(v_TKD, v_cache_SKR.dtype)
    return q_THD
