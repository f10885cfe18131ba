"""What is read off a prompt besides its next token: its own log-probabilities, or one vector for all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch

from ostro.core.request import Routing, TokenLogprobs

# Rows of logits at a time: a long prompt's would be gigabytes.
SLICE = 64


class PromptScores:
    """Log-probabilities (nats) of a prompt's tokens, each given what is before it. tokens: the prompt.

    k: the k likeliest tokens are reported beside each.
    """

    def __init__(self, tokens: list[int], k: int) -> None:
        self._tokens = tokens
        self._k = k
        self._entries: list[TokenLogprobs | None] = [None]

    @property
    def complete(self) -> bool:
        return len(self._entries) == len(self._tokens)

    def take(self, hidden_TD: torch.Tensor, start: int, head: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Hidden states at positions start, start + 1, …; each says what its successor's odds were."""
        count = min(hidden_TD.shape[0], len(self._tokens) - 1 - start)
        for begin in range(0, count, SLICE):
            rows_RD = hidden_TD[begin : min(begin + SLICE, count)]
            self._score(torch.log_softmax(head(rows_RD).float(), dim=-1), start + begin + 1)

    def entries(self) -> list[TokenLogprobs | None]:
        """One a token, None for the first, which has nothing before it."""
        return self._entries

    def _score(self, logprobs_RV: torch.Tensor, first: int) -> None:
        count = logprobs_RV.shape[0]
        tokens = self._tokens[first : first + count]
        rows = torch.arange(count, device=logprobs_RV.device)
        chosen = logprobs_RV[rows, torch.tensor(tokens, device=logprobs_RV.device)].tolist()
        best: list[list[tuple[int, float]]] = [[] for _ in tokens]
        if self._k:
            values, ids = logprobs_RV.topk(min(self._k, logprobs_RV.shape[-1]), dim=-1)
            best = [list(zip(i, v, strict=True)) for i, v in zip(ids.tolist(), values.tolist(), strict=True)]
        self._entries += [TokenLogprobs(*entry) for entry in zip(tokens, chosen, best, strict=True)]


class Routes:
    """Means of a prompt's routes. senses: the model's, by number."""

    def __init__(self, senses: Sequence[str], num_prompt: int) -> None:
        self._senses = senses
        self._num_prompt = num_prompt
        self._sums: torch.Tensor | None = None
        self._counts_M = torch.zeros(len(senses))

    def take(self, routes_LTM: torch.Tensor, senses_T: torch.Tensor, start: int) -> Routing | None:
        """Factors of every layer for rows from position `start` on, and what the rows are of; the means once the prompt
        is complete."""
        looking_TM = torch.nn.functional.one_hot(senses_T, len(self._senses)).float().cpu()
        sums = torch.einsum("tq,ltm->lqm", looking_TM, routes_LTM.float().cpu())
        self._sums = sums if self._sums is None else self._sums + sums
        self._counts_M += looking_TM.sum(0)
        if start + len(senses_T) < self._num_prompt:
            return None
        there = [number for number, count in enumerate(self._counts_M.tolist()) if count]
        means = self._sums / self._counts_M.clamp(min=1)[None, :, None]
        return Routing([self._senses[number] for number in there], means[:, there][:, :, there].tolist())


class Pooled:
    """One vector for a prompt: its last token's hidden state, or the mean of all, in float32. finish: what the model
    makes of it."""

    def __init__(
        self, how: Literal["last", "mean"], num_prompt: int, finish: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        self._finish = finish
        self._how = how
        self._num_prompt = num_prompt
        self._seen = 0
        self._sum_D: torch.Tensor | None = None

    def take(self, hidden_TD: torch.Tensor, start: int) -> bytes | None:
        """Hidden states at positions start, start + 1, …; the vector, little-endian, once the prompt is complete."""
        rows_TD = hidden_TD.float()
        self._seen = start + rows_TD.shape[0]
        if self._how == "mean":
            total_D = rows_TD.sum(0)
            self._sum_D = total_D if self._sum_D is None else self._sum_D + total_D
        if self._seen < self._num_prompt:
            return None
        pooled_D = rows_TD[-1] if self._sum_D is None else self._sum_D / self._num_prompt
        return bytes(self._finish(pooled_D).cpu().numpy().astype("<f4").tobytes())
