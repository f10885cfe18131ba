"""One query row a sequence, batched: gather every row's blocks, mask what it may not see. For devices without a
native kernel; its memory grows with rows x longest context."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ostro.kernels.paged_attention.cache_rows import decode


def gathered_attention(
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
    rows, heads, head_dim = q_THD.shape
    kv_heads = k_cache_SKR.shape[1]
    paged = (-1, block_size, *k_cache_SKR.shape[1:])
    blocks_TB = block_table_NB[row_sequence_T.long()].long()
    k_TKCD = decode(k_cache_SKR.view(paged)[blocks_TB].flatten(1, 2).transpose(1, 2), q_THD.dtype)
    v_TKCD = decode(v_cache_SKR.view(paged)[blocks_TB].flatten(1, 2).transpose(1, 2), q_THD.dtype)
    at_1C = torch.arange(k_TKCD.shape[2], device=q_THD.device)[None, :]
    mask_TC = at_1C <= positions_T[:, None]
    if window:
        mask_TC = mask_TC & (at_1C > positions_T[:, None] - window)
    # The cache's rows behind a sequence's end are whatever was there before: a weight of zero does not silence a NaN.
    hidden_T1C1 = ~mask_TC[:, None, :, None]
    k_TKCD, v_TKCD = k_TKCD.masked_fill(hidden_T1C1, 0), v_TKCD.masked_fill(hidden_T1C1, 0)
    # A group's heads are its query rows: [T, K, G, D] against [T, K, C, D].
    out_TKGD = F.scaled_dot_product_attention(
        q_THD.reshape(rows, kv_heads, heads // kv_heads, head_dim),
        k_TKCD,
        v_TKCD,
        attn_mask=mask_TC[:, None, None, :],
        scale=scale,
    )
    return out_TKGD.reshape(rows, heads, head_dim)
