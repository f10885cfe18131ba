"""The contrastive loss against a slow loop, its known values, and what it does to vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mistral_sdk
from ostro.core.errors import ConfigError
from ostro.training.senses.contrast import ContrastiveLoss


def slow(first: torch.Tensor, second: torch.Tensor, groups: Sequence[object], temperature: float) -> float:
    total = 0.0
    for one, other in ((first, second), (second, first)):
        for i in range(len(one)):
            scores = [
                float(one[i] @ other[j]) / float(one[i].norm()) / float(other[j].norm()) / temperature
                for j in range(len(other))
            ]
            whole = math.log(sum(math.exp(score) for score in scores))
            right = [score for score, group in zip(scores, groups, strict=True) if group == groups[i]]
            total += sum(whole - score for score in right) / len(right) / len(one) / 2
    return total


@settings(max_examples=50, deadline=None)
@given(
    groups=st.lists(st.sampled_from(["a cat", "a dog", "seven"]), min_size=1, max_size=8),
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.05, 0.1, 1.0]),
)
def test_it_is_what_a_loop_computes(groups: list[str], seed: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(len(groups), 6, generator=generator) for _ in range(2))
    loss = ContrastiveLoss(temperature)
    for named in (groups, range(len(groups))):
        expected = pytest.approx(slow(first, second, named, temperature), rel=1e-4, abs=1e-5)
        assert loss(first, second, named).item() == expected
    assert loss(first, second).item() == expected, "without groups each pair is one of its own"
    assert loss(second, first, groups).item() == pytest.approx(loss(first, second, groups).item(), rel=1e-5)
    assert loss(first * 7, second * 0.1, groups).item() == pytest.approx(loss(first, second, groups).item(), rel=1e-4)


def test_it_is_of_32_bits_where_products_are_of_16() -> None:
    first, second = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(1)).unbind()
    loss = ContrastiveLoss()
    exact = loss(first, second).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(first, second).item() == exact


def test_known_values() -> None:
    loss = ContrastiveLoss(temperature=0.1)
    eye = torch.eye(4)
    # exp(10) for the right one and 1 for each of three others.
    assert loss(eye, eye).item() == pytest.approx(math.log(1 + 3 * math.exp(-10)), rel=1e-3)
    assert loss(torch.ones(4, 3), torch.ones(4, 3)).item() == pytest.approx(math.log(4))
    assert loss(eye[:1], eye[:1]).item() == 0.0
    # Two rows of one caption, each as near to its own as to the other's: no worse than chance between the two.
    same = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert loss(same, same, ["a", "a", "b"]).item() == pytest.approx(
        (2 * math.log(2 + math.exp(-10)) + math.log(1 + 2 * math.exp(-10))) / 3, rel=1e-3
    )
    assert loss(torch.zeros(2, 3), torch.ones(2, 3)).item() == pytest.approx(math.log(2))


def test_a_caption_that_comes_twice_is_not_pushed_away() -> None:
    first = torch.tensor([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.0]], requires_grad=True)
    second = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.1]])
    loss = ContrastiveLoss(0.1)
    assert loss(first, second, ["a", "a", "b"]) < loss(first, second, ["a", "c", "b"]) + 1e-6
    loss(first, second, ["a", "a", "b"]).backward()
    assert first.grad is not None
    assert first.grad.abs().sum() > 0


def test_it_learns_to_bring_pairs_together() -> None:
    torch.manual_seed(0)
    seen, said = torch.randn(12, 8), torch.randn(12, 5)
    project = torch.nn.Linear(8, 5)
    optimiser = torch.optim.Adam(project.parameters(), lr=0.05)
    loss = ContrastiveLoss(temperature=0.1)
    before = loss(project(seen), said).item()
    for _ in range(150):
        optimiser.zero_grad()
        loss(project(seen), said).backward()
        optimiser.step()
    assert loss(project(seen), said).item() < before / 3


def test_wrong_use_is_told() -> None:
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="above 0"):
            ContrastiveLoss(wrong)
    loss = ContrastiveLoss()
    assert loss.temperature == 0.1
    for one, other in (((2, 3), (3, 3)), ((3,), (3,)), ((0, 3), (0, 3))):
        first, second = torch.ones(one), torch.ones(other)
        with pytest.raises(ValueError, match="one shape"):
            loss(first, second)
    with pytest.raises(ValueError, match="1 groups for 2 pairs"):
        loss(torch.ones(2, 3), torch.ones(2, 3), ["a"])


def test_it_is_published() -> None:
    assert mistral_sdk.ContrastiveLoss is ContrastiveLoss
