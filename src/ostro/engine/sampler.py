"""From logits to tokens. Every row has its own parameters; rows that ask for nothing special cost one argmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ostro.core.request import TokenLogprobs
from ostro.core.sampling import SamplingParams
from ostro.engine.randomness import uniform
from ostro.kernels.pick_tokens import pick_tokens

# Below this a temperature is greedy in all but name, and dividing by it would overflow float32.
COLDEST = 1e-6
# What stands for a token where the logits are no numbers.
NO_TOKEN = -1


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
    """One token a row, and where any row asks for them the raw log-probabilities of all rows. A row with NaN or
    infinity among its logits gives NO_TOKEN.

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
    best_R = logits_RV.argmax(dim=-1)
    tokens = best_R.tolist()
    drawn = [index for index, row in enumerate(rows) if not row.params.greedy]
    if drawn:
        chosen = draw(logits_RV[drawn].float(), [rows[index] for index in drawn])
        for index, token in zip(drawn, chosen, strict=True):
            tokens[index] = token
    # argmax takes a NaN for the largest of all, so one number a row tells.
    for index, most in enumerate(logits_RV.gather(1, best_R[:, None])[:, 0].tolist()):
        if not most < math.inf:
            tokens[index] = NO_TOKEN
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
    return pick_tokens(probs_RV, draws, [row.params for row in rows]).tolist()


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
