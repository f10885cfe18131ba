"""pick_tokens: from probabilities to tokens, by top-k, top-p and min-p and one uniform draw a row."""

from __future__ import annotations

import torch

from ostro.core.sampling import SamplingParams
from ostro.kernels.dispatch import native
from ostro.kernels.pick_tokens import reference


def pick_tokens(probs_RV: torch.Tensor, draws_R: torch.Tensor, params: list[SamplingParams]) -> torch.Tensor:
    """Probabilities [R, V] float32, draws [R] float64 in [0, 1) -> token ids [R] int64.

    Filters keep a prefix of the order by probability, of equals the lower id first; the kept ones are then inverted in
    token order. A row that is no distribution (NaN) gives its last token.
    """
    if native is None or not probs_RV.is_cpu or probs_RV.stride(1) != 1:
        return reference.pick_tokens(probs_RV, draws_R, params)
    assert probs_RV.dtype == torch.float32
    assert draws_R.dtype == torch.float64
    rows, vocabulary = probs_RV.shape
    assert len(params) == draws_R.numel() == rows
    tokens_R = torch.empty(rows, dtype=torch.int64)
    filters_R3 = torch.tensor([[p.top_k, p.top_p, p.min_p] for p in params], dtype=torch.float64)
    native.pick_tokens(
        tokens_R.data_ptr(),
        probs_RV.data_ptr(),
        probs_RV.stride(0),
        draws_R.contiguous().data_ptr(),
        filters_R3.data_ptr(),
        rows,
        vocabulary,
    )
    return tokens_R
