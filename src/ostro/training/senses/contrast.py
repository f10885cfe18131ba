"""The contrastive loss that brings what two senses make of the same thing together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ostro.core.errors import ConfigError


class ContrastiveLoss(nn.Module):
    """InfoNCE (van den Oord et al. 2018, arXiv:1807.03748), symmetric as in CLIP (Radford et al. 2021,
    arXiv:2103.00020).

    temperature: what cosines are divided by. Raises ConfigError where it is not above 0.

    >>> ContrastiveLoss(temperature=0.1)(torch.eye(2), torch.eye(2)).item() < 1e-4
    True
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        if not 0 < temperature < float("inf"):
            raise ConfigError(f"The temperature must be above 0, not {temperature}.", param="temperature")
        self.temperature = temperature

    def forward(
        self, first_BE: torch.Tensor, second_BE: torch.Tensor, groups: Sequence[Hashable] | None = None
    ) -> torch.Tensor:
        """[B, E] of one sense and [B, E] of another, row i of both being a pair -> mean loss in nats, a scalar.

        groups: what each pair is of, such as its caption. Rows of one group are right answers for each other, not
        wrong ones: the target is spread evenly over them (UniCL, Yang et al. 2022, arXiv:2204.03610). Without it every
        pair is a group of its own. Vectors are normalised here; a vector of zeros is as far from all.
        """
        if first_BE.shape != second_BE.shape or first_BE.dim() != 2 or not len(first_BE):
            raise ValueError(
                f"Expected two tensors [B, E] of one shape, got {list(first_BE.shape)} and {list(second_BE.shape)}."
            )
        if groups is not None and len(groups) != len(first_BE):
            raise ValueError(f"There are {len(groups)} groups for {len(first_BE)} pairs.")
        # Not in 16 bits, also where a caller's products are: divided by the temperature, their error is 0.04 nats.
        with torch.autocast(first_BE.device.type, enabled=False):
            first_BE, second_BE = F.normalize(first_BE.float(), dim=1), F.normalize(second_BE.float(), dim=1)
            logits_BB = first_BE @ second_BE.T / self.temperature
        numbers: dict[Hashable, int] = {}
        named = range(len(first_BE)) if groups is None else groups
        of_B = torch.tensor([numbers.setdefault(group, len(numbers)) for group in named], device=logits_BB.device)
        same_BB = (of_B[:, None] == of_B[None, :]).float()
        # A group is as large seen from either side, so the target is its own transpose.
        target_BB = same_BB / same_BB.sum(1, keepdim=True)
        return (F.cross_entropy(logits_BB, target_BB) + F.cross_entropy(logits_BB.T, target_BB)) / 2
