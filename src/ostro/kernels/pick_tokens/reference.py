"""The reference of picking tokens: candidates by topk, sorted, and a cumulative sum over them."""

from __future__ import annotations

import torch

from ostro.core.sampling import SamplingParams

# How many of the best tokens are looked at first where top-p or min-p may cut: nearly always enough, and far
# cheaper than sorting a vocabulary. Where it is not enough, more are taken until it is.
FIRST_CANDIDATES = 128


def pick_tokens(probs_RV: torch.Tensor, draws_R: torch.Tensor, params: list[SamplingParams]) -> torch.Tensor:
    """Probabilities [R, V] float32, draws [R] float64 in [0, 1) -> token ids [R] int64."""
    cut = [i for i, p in enumerate(params) if p.top_k or p.top_p < 1 or p.min_p]
    if not cut:
        return invert(probs_RV, draws_R)
    tokens_R = torch.empty(len(params), dtype=torch.int64, device=probs_RV.device)
    tokens_R[cut] = _draw_cut(probs_RV[cut], draws_R[cut], [params[i] for i in cut])
    whole = sorted(set(range(len(params))) - set(cut))
    if whole:
        tokens_R[whole] = invert(probs_RV[whole], draws_R[whole])
    return tokens_R


def _draw_cut(probs_RV: torch.Tensor, draws_R: torch.Tensor, params: list[SamplingParams]) -> torch.Tensor:
    kept_RC, ids_RC = kept(probs_RV, params)
    ids_RC, order_RC = ids_RC.sort(dim=-1)
    index_R = invert(kept_RC.gather(-1, order_RC), draws_R)
    return ids_RC.gather(-1, index_R[:, None])[:, 0]


def kept(probs_RV: torch.Tensor, params: list[SamplingParams]) -> tuple[torch.Tensor, torch.Tensor]:
    """The best tokens of each row, best first, and their probabilities, 0 for those that a filter drops.

    Every filter keeps a prefix of the order by probability. The candidates are enough once the last one kept is
    strictly likelier than the last candidate: then everything as likely as it is among them, and ties are broken by
    token id, not by what else is in the batch. What has no probability is never kept, so candidates that reach that
    are enough too.
    """
    vocabulary = probs_RV.shape[-1]
    count = min(vocabulary, max(FIRST_CANDIDATES, *(2 * p.top_k for p in params), 0))
    while True:
        best_RC, ids_RC = best(probs_RV, count)
        keep_RC = _keep(best_RC, params)
        last_R1 = keep_RC.sum(-1, keepdim=True) - 1
        enough_R1 = (best_RC.gather(-1, last_R1) > best_RC[:, -1:]) | (best_RC[:, -1:] == 0)
        if count == vocabulary or bool(enough_R1.all()):
            return torch.where(keep_RC, best_RC, 0.0), ids_RC
        count = min(vocabulary, count * 8)


def best(probs_RV: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` best of each row, best first; of equals the lower id first (topk alone leaves that open)."""
    ids_RC = probs_RV.topk(count, dim=-1).indices.sort(dim=-1).values
    best_RC, order_RC = probs_RV.gather(-1, ids_RC).sort(dim=-1, descending=True, stable=True)
    return best_RC, ids_RC.gather(-1, order_RC)


def _keep(best_RC: torch.Tensor, params: list[SamplingParams]) -> torch.Tensor:
    """Which candidates, best first, pass top-k, top-p and min-p. The best one always does."""
    device, count = best_RC.device, best_RC.shape[-1]
    top_k = torch.tensor([min(p.top_k or count, count) for p in params], device=device)[:, None]
    top_p = torch.tensor([p.top_p for p in params], device=device, dtype=torch.float64)[:, None]
    min_p = torch.tensor([p.min_p for p in params], device=device)[:, None]
    wide_RC = best_RC.double()
    before_RC = wide_RC.cumsum(-1) - wide_RC
    keep_RC = torch.arange(count, device=device)[None, :] < top_k
    # A top_p of 1 keeps all: rounding must not make the mass before the last tokens look like 1.
    keep_RC &= (before_RC < top_p) | (top_p >= 1.0)
    keep_RC &= best_RC >= min_p * best_RC[:, :1]
    keep_RC &= best_RC > 0
    keep_RC[:, 0] = True
    return keep_RC


def invert(weights_RC: torch.Tensor, draws_R: torch.Tensor) -> torch.Tensor:
    """The first index whose cumulative weight exceeds draw * total: never one of weight zero."""
    cumulative_RC = weights_RC.cumsum(-1, dtype=torch.float64)
    # A draw is at most 1 - 2^-53, and that times the total is below the total in float64 too.
    target_R1 = (draws_R * cumulative_RC[:, -1])[:, None]
    index_R = torch.searchsorted(cumulative_RC, target_R1, right=True)[:, 0]
    return index_R.clamp_(max=weights_RC.shape[-1] - 1)  # Only a row that is not a distribution (NaN) gets there.
