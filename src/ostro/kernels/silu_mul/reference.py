"""The gated activation of SwiGLU (Shazeer 2020, arXiv:2002.05202)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def silu_mul(gate_up_T2F: torch.Tensor, parts: Sequence[int] | None = None) -> torch.Tensor:
    if parts is not None and len(parts) != 1:
        halves = torch.split(gate_up_T2F, [2 * size for size in parts], dim=-1)
        return torch.cat([silu_mul(half) for half in halves], dim=-1)
    gate_TF, up_TF = gate_up_T2F.chunk(2, dim=-1)
    return F.silu(gate_TF) * up_TF
