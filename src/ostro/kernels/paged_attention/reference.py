"""Attention over a paged KV cache (Kwon et al. 2023, arXiv:2309.06180), one row at a time."""

from __future__ import annotations

import torch

from ostro.kernels.paged_attention.cache_rows import decode


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
    heads, kv_heads = q_THD.shape[1], k_cache_SKR.shape[1]
    out_THD = torch.empty_like(q_THD, memory_format=torch.contiguous_format)
    for row, (position, sequence) in enumerate(zip(positions_T.tolist(), row_sequence_T.tolist(), strict=True)):
        start = max(0, position + 1 - window) if window else 0
        at_C = torch.arange(start, position + 1, device=q_THD.device)
        slots_C = block_table_NB[sequence, at_C // block_size].long() * block_size + at_C % block_size
        k_CHD = decode(k_cache_SKR[slots_C], torch.float32).repeat_interleave(heads // kv_heads, dim=1)
        v_CHD = decode(v_cache_SKR[slots_C], torch.float32).repeat_interleave(heads // kv_heads, dim=1)
        scores_HC = torch.einsum("hd,chd->hc", q_THD[row].float(), k_CHD) * scale
        out_THD[row] = torch.einsum("hc,chd->hd", scores_HC.softmax(-1), v_CHD).to(q_THD.dtype)
    return out_THD
