"""How the KV cache holds a row: in floating point, or as int8 with the row's scale behind it.

A cache is [slots, kv_heads, row]. In floating point a row is head_dim numbers. In int8 it is head_dim codes and the
four bytes of a float32 scale, so that a row, and with it a block, is one piece of memory whatever the format.
"""

from __future__ import annotations

import torch

SCALE_BYTES = 4
# Below this a row counts as zero.
SMALLEST = 1e-30


def row_size(head_dim: int, dtype: torch.dtype) -> int:
    """Elements of a row of the cache."""
    return head_dim + SCALE_BYTES if dtype == torch.int8 else head_dim


def head_dim_of(cache_SKR: torch.Tensor) -> int:
    rows = cache_SKR.shape[2]
    return rows - SCALE_BYTES if cache_SKR.dtype == torch.int8 else rows


def encode(x_TKD: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rows as the cache holds them: [T, K, D] -> [T, K, R]. int8: code = round(x / scale), scale = max|x| / 127."""
    if dtype != torch.int8:
        return x_TKD.to(dtype)
    x_TKD = x_TKD.float()
    finite_TK1 = x_TKD.isfinite().all(-1, keepdim=True)
    largest_TK1 = x_TKD.abs().amax(-1, keepdim=True)
    some_TK1 = finite_TK1 & (largest_TK1 > SMALLEST)
    # A number divided by a tensor is a reciprocal and a product in PyTorch; two tensors are divided.
    inverse_TK1 = torch.where(some_TK1, torch.tensor(127.0) / largest_TK1, 0.0)
    codes_TKD = (torch.where(some_TK1, x_TKD, 0.0) * inverse_TK1).round().to(torch.int8)
    scales_TK1 = torch.where(some_TK1, largest_TK1 / 127.0, torch.where(finite_TK1, 0.0, torch.nan))
    return torch.cat((codes_TKD, scales_TK1.contiguous().view(torch.int8)), dim=-1)


def decode(rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The numbers that rows [..., R] of a cache stand for: [..., D] of `dtype`."""
    if rows.dtype != torch.int8:
        return rows.to(dtype)
    codes, scales = rows[..., :-SCALE_BYTES], rows[..., -SCALE_BYTES:].clone(memory_format=torch.contiguous_format)
    return (codes.float() * scales.view(torch.float32)).to(dtype)
