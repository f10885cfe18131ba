"""From logits to tokens. Every row has its own parameters; rows that ask for nothing special cost one argmax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ostro.core.request import TokenLogprobs
from ostro.core.sampling import SamplingParams
from ostro.engine.randomness import uniform

# How many of the best tokens are looked at first where top-p or min-p may cut: nearly always enough, and far
# cheaper than sorting a vocabulary. Where it is not enough, more are taken until it is.
FIRST_CANDIDATES = 128
# Below this a temperature is greedy in all but name, and dividing by it would overflow float32.
COLDEST = 1e-6


@dataclass(frozen=True)
class SampleRow:
    """One row of logits: how to sample it, and the position of the token that it decides.

    history, num_prompt: the sequence's tokens up to here, for penalties; empty where none are set.
    forbidden: tokens that must not come yet (`min_tokens`).
    """

    params: SamplingParams
    seed: int
    position: int
    history: list[int]
    num_prompt: int
    forbidden: list[int]

    @property
    def adjusted(self) -> bool:
        return bool(self.history or self.forbidden or self.params.logit_bias or self.params.banned_token_ids)


def sample(
    logits_RV: torch.Tensor, rows: list[SampleRow], mask: Callable[[torch.Tensor], None] | None = None
) -> tuple[list[int], list[TokenLogprobs] | None]:
    """One token a row, and where any row asks for them the raw log-probabilities of all rows.

    mask: sets the logits of tokens that a grammar forbids to minus infinity, in place. It comes last, so that no
    bias brings one back.
    """
    wants_logprobs = any(row.params.logprobs is not None for row in rows)
    raw_RV = logits_RV
    if any(row.adjusted for row in rows) or (mask is not None and wants_logprobs):
        logits_RV = logits_RV.float() if logits_RV.dtype != torch.float32 else logits_RV.clone()
        for index, row in enumerate(rows):
            if row.adjusted:
                adjust(logits_RV[index], row)
    if mask is not None:
        mask(logits_RV)
    tokens = logits_RV.argmax(dim=-1).tolist()
    drawn = [index for index, row in enumerate(rows) if not row.params.greedy]
    if drawn:
        chosen = draw(logits_RV[drawn].float(), [rows[index] for index in drawn])
        for index, token in zip(drawn, chosen, strict=True):
            tokens[index] = token
    return tokens, raw_logprobs(raw_RV, tokens, rows) if wants_logprobs else None


def adjust(logits_V: torch.Tensor, row: SampleRow) -> None:
    """Penalties, bias and forbidden tokens, in place on one float32 row."""
    params = row.params
    if row.history:
        _penalise(logits_V, row)
    for token, bias in params.logit_bias.items():
        logits_V[token] += bias
    if row.forbidden:
        logits_V[row.forbidden] = -torch.inf
    if params.banned_token_ids:
        logits_V[list(params.banned_token_ids)] = -torch.inf


def _penalise(logits_V: torch.Tensor, row: SampleRow) -> None:
    params = row.params
    device = logits_V.device
    if params.repetition_penalty != 1.0:
        seen = torch.from_numpy(np.unique(np.asarray(row.history))).to(device)
        values = logits_V[seen]
        penalty = params.repetition_penalty
        logits_V[seen] = torch.where(values > 0, values / penalty, values * penalty)
    generated = row.history[row.num_prompt :]
    if generated and (params.presence_penalty or params.frequency_penalty):
        tokens, counts = np.unique(np.asarray(generated), return_counts=True)
        amount = params.presence_penalty + params.frequency_penalty * counts
        logits_V[torch.from_numpy(tokens).to(device)] -= torch.from_numpy(amount.astype(np.float32)).to(device)


def draw(logits_RV: torch.Tensor, rows: list[SampleRow]) -> list[int]:
    """Inverse-CDF sampling in token order from the filtered distribution, with each row's keyed uniform draw.

    Token order, not probability order, so that a rounding difference between two batches cannot reorder the CDF.
    """
    temperatures = torch.tensor([max(row.params.temperature, COLDEST) for row in rows], device=logits_RV.device)
    probs_RV = torch.softmax(logits_RV / temperatures[:, None], dim=-1)
    draws = torch.tensor(
        [uniform(row.seed, row.position) for row in rows], dtype=torch.float64, device=logits_RV.device
    )
    cut = [i for i, row in enumerate(rows) if row.params.top_k or row.params.top_p < 1 or row.params.min_p]
    if not cut:
        return _invert(probs_RV, draws).tolist()
    tokens = torch.empty(len(rows), dtype=torch.int64, device=logits_RV.device)
    tokens[cut] = _draw_cut(probs_RV[cut], draws[cut], [rows[i].params for i in cut])
    whole = sorted(set(range(len(rows))) - set(cut))
    if whole:
        tokens[whole] = _invert(probs_RV[whole], draws[whole])
    return tokens.tolist()


def _draw_cut(probs_RV: torch.Tensor, draws_R: torch.Tensor, params: list[SamplingParams]) -> torch.Tensor:
    kept_RC, ids_RC = _kept(probs_RV, params)
    ids_RC, order_RC = ids_RC.sort(dim=-1)
    index_R = _invert(kept_RC.gather(-1, order_RC), draws_R)
    return ids_RC.gather(-1, index_R[:, None])[:, 0]


def _kept(probs_RV: torch.Tensor, params: list[SamplingParams]) -> tuple[torch.Tensor, torch.Tensor]:
    """The best tokens of each row, best first, and their probabilities, 0 for those that a filter drops.

    Every filter keeps a prefix of the order by probability. The candidates are enough once the last one kept is
    strictly likelier than the last candidate: then everything as likely as it is among them, and ties are broken by
    token id, not by what else is in the batch. What has no probability is never kept, so candidates that reach that
    are enough too.
    """
    vocabulary = probs_RV.shape[-1]
    count = min(vocabulary, max(FIRST_CANDIDATES, *(2 * p.top_k for p in params), 0))
    while True:
        best_RC, ids_RC = _best(probs_RV, count)
        keep_RC = _keep(best_RC, params)
        last_R1 = keep_RC.sum(-1, keepdim=True) - 1
        enough_R1 = (best_RC.gather(-1, last_R1) > best_RC[:, -1:]) | (best_RC[:, -1:] == 0)
        if count == vocabulary or bool(enough_R1.all()):
            return torch.where(keep_RC, best_RC, 0.0), ids_RC
        count = min(vocabulary, count * 8)


def _best(probs_RV: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
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


def _invert(weights_RC: torch.Tensor, draws_R: torch.Tensor) -> torch.Tensor:
    """The first index whose cumulative weight exceeds draw * total: never one of weight zero."""
    cumulative_RC = weights_RC.cumsum(-1, dtype=torch.float64)
    # A draw is at most 1 - 2^-53, and that times the total is below the total in float64 too.
    target_R1 = (draws_R * cumulative_RC[:, -1])[:, None]
    index_R = torch.searchsorted(cumulative_RC, target_R1, right=True)[:, 0]
    return index_R.clamp_(max=weights_RC.shape[-1] - 1)  # Only a row that is not a distribution (NaN) gets there.


def raw_logprobs(logits_RV: torch.Tensor, tokens: list[int], rows: list[SampleRow]) -> list[TokenLogprobs]:
    """Log-probabilities (nats) of the model's own distribution: the chosen token and each row's best."""
    logprobs_RV = torch.log_softmax(logits_RV.float(), dim=-1)
    most = max(row.params.logprobs or 0 for row in rows)
    chosen = logprobs_RV[torch.arange(len(tokens)), tokens].tolist()
    if most == 0:
        return [TokenLogprobs(token, value) for token, value in zip(tokens, chosen, strict=True)]
    values, ids = logprobs_RV.topk(min(most, logprobs_RV.shape[-1]), dim=-1)
    best = [list(zip(i, v, strict=True)) for i, v in zip(ids.tolist(), values.tolist(), strict=True)]
    return [
        TokenLogprobs(token, value, top[: row.params.logprobs or 0])
        for token, value, top, row in zip(tokens, chosen, best, rows, strict=True)
    ]
