"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), rotate-half layout, and the KV cache write."""

from __future__ import annotations

import torch


def rotate(x_THD: torch.Tensor, cos_Td: torch.Tensor, sin_Td: torch.Tensor) -> torch.Tensor:
    """Rotate heads: x [T, H, D], cos and sin [T, D/2] float32 -> [T, H, D] of x's dtype."""
    low_THd, high_THd = x_THD.float().chunk(2, dim=-1)
    cos_T1d, sin_T1d = cos_Td.unsqueeze(1), sin_Td.unsqueeze(1)
    rotated = torch.cat((low_THd * cos_T1d - high_THd * sin_T1d, high_THd * cos_T1d + low_THd * sin_T1d), dim=-1)
    return rotated.to(x_THD.dtype)


def split_rotate(
    qkv_TE: torch.Tensor,
    cos_Td: torch.Tensor,
    sin_Td: torch.Tensor,
    q_scale_T: torch.Tensor | None,
    heads: int,
    kv_heads: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split stacked projections into rotated q [T, H, D] (times q_scale), rotated k [T, K, D] and v [T, K, D]."""
    head_dim = cos_Td.shape[-1] * 2
    heads_THD = qkv_TE.view(-1, heads + 2 * kv_heads, head_dim)
    q_THD, k_TKD, v_TKD = heads_THD.tensor_split((heads, heads + kv_heads), dim=1)
    q_THD = rotate(q_THD, cos_Td, sin_Td)
    if q_scale_T is not None:
        q_THD = (q_THD.float() * q_scale_T[:, None, None]).to(q_THD.dtype)
    return q_THD, rotate(k_TKD, cos_Td, sin_Td), v_TKD
