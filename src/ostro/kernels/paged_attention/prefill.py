"""Attention of many query rows of one sequence: gather its keys once, then PyTorch's fused attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ostro.kernels.paged_attention.cache_rows import decode


def causal_mask(start: int, rows: int, key_start: int, window: int, device: torch.device) -> torch.Tensor:
    """Bool [rows, start + rows - key_start]: query i at position start + i sees key j at key_start + j."""
    query_Q1 = torch.arange(start, start + rows, device=device)[:, None]
    key_1C = torch.arange(key_start, start + rows, device=device)[None, :]
    mask_QC = key_1C <= query_Q1
    return mask_QC & (key_1C > query_Q1 - window) if window else mask_QC


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
    """Queries at positions start .. start + Q of one sequence over all it has cached: [Q, H, D] -> [Q, H, D]."""
    rows, heads, head_dim = q_QHD.shape
    kv_heads, end = k_cache_SKR.shape[1], start + rows
    # Only blocks that the window reaches are touched: those before it may have been given away.
    key_start = max(0, start + 1 - window) // block_size * block_size if window else 0
    blocks_B = blocks_B[key_start // block_size : -(-end // block_size)].long()
    paged = (-1, block_size, *k_cache_SKR.shape[1:])
    k_CKD = decode(k_cache_SKR.view(paged)[blocks_B].flatten(0, 1)[: end - key_start], q_QHD.dtype)
    v_CKD = decode(v_cache_SKR.view(paged)[blocks_B].flatten(0, 1)[: end - key_start], q_QHD.dtype)
    group = heads // kv_heads
    # [K, G, Q, D] against [K, 1 -> G, C, D]: the heads of a group share keys through a stride of zero.
    q_KGQD = q_QHD.reshape(rows, kv_heads, group, head_dim).permute(1, 2, 0, 3)
    k_KGCD = k_CKD.permute(1, 0, 2).unsqueeze(1).expand(-1, group, -1, -1)
    v_KGCD = v_CKD.permute(1, 0, 2).unsqueeze(1).expand(-1, group, -1, -1)
    whole = start == 0 and (not window or rows <= window)
    mask = None if whole else causal_mask(start, rows, key_start, window, q_QHD.device)
    out_KGQD = F.scaled_dot_product_attention(q_KGQD, k_KGCD, v_KGCD, attn_mask=mask, is_causal=whole, scale=scale)
    return out_KGQD.permute(2, 0, 1, 3).reshape(rows, heads, head_dim)
