"""Grouping by correlation: orders are permutations, like columns meet, and the error falls."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import NAME, correlated_inputs, heavy_tailed

from ostro.compression.error import relative_error, squared_error
from ostro.compression.gptq import gptq
from ostro.compression.grouping import clustered, correlated_order, magnitude_profile, quantise_ordered
from ostro.compression.rounding import round_to_nearest
from ostro.core.errors import ConfigError
from ostro.kernels.packed_linear.layout import Scheme

seeds = st.integers(0, 999)


def is_permutation(order: torch.Tensor, inputs: int) -> bool:
    return torch.equal(order.long().sort().values, torch.arange(inputs))


@settings(max_examples=40)
@given(st.integers(1, 12), st.integers(1, 4), st.sampled_from([0, 32, 64]), seeds, st.booleans())
def test_an_order_is_a_permutation_and_never_worse_than_none(
    outputs: int, multiple: int, size: int, seed: int, inputs_known: bool
) -> None:
    inputs = 64 * multiple
    weight = heavy_tailed(outputs, inputs, seed)
    values = correlated_inputs(2 * inputs, inputs, seed)
    hessian = values.T @ values if inputs_known else None
    order = correlated_order(weight, size, hessian)
    assert order.dtype == torch.int32
    assert is_permutation(order, inputs)
    importance = None if hessian is None else hessian.diagonal()
    ordered = quantise_ordered(weight, order, Scheme(4, size), name=NAME, importance_I=importance)
    contiguous = round_to_nearest(weight, Scheme(4, size), name=NAME, importance_I=importance)
    assert squared_error(weight, ordered, hessian) <= squared_error(weight, contiguous, hessian) * 1.0001


@given(st.sampled_from([Scheme(4, 32), Scheme(4, 64, True), Scheme(8, 32), Scheme(4, 0)]), seeds, st.booleans())
def test_dequantising_undoes_any_order(scheme: Scheme, seed: int, important: bool) -> None:
    weight = heavy_tailed(3, 128, seed)
    order = torch.randperm(128, generator=torch.Generator().manual_seed(seed))
    importance = heavy_tailed(1, 128, seed)[0].square() if important else None
    codes = quantise_ordered(weight, order, scheme, name=NAME, importance_I=importance)
    assert codes.order_I is not None
    assert torch.equal(codes.order_I, order.to(torch.int32))
    sorted_importance = None if importance is None else importance[order]
    alone = round_to_nearest(weight[:, order], scheme, name=NAME, importance_I=sorted_importance)
    assert torch.equal(codes.dequantise()[:, order], alone.dequantise())
    assert relative_error(weight, codes) < 0.5


@given(st.integers(1, 4), st.sampled_from([1, 2, 8]), seeds)
def test_columns_of_hidden_kinds_find_each_other(outputs: int, kinds: int, seed: int) -> None:
    # Each kind is large in rows of its own; its columns are strewn over the matrix.
    generator = torch.Generator().manual_seed(seed)
    kind = torch.arange(kinds).repeat_interleave(32)[torch.randperm(32 * kinds, generator=generator)]
    profile = (torch.arange(kinds)[:, None] == kind).float() * 5 + 0.1
    weight = profile.repeat_interleave(4 * outputs, 0) * (1 + 0.01 * torch.randn(1, 32 * kinds, generator=generator))
    groups = kind[clustered(magnitude_profile(weight, kinds), 32)].view(kinds, 32)
    assert (groups == groups[:, :1]).all()


def test_it_gains_on_columns_of_different_sizes() -> None:
    weight = heavy_tailed(128, 512, 1)
    for size, gain in ((32, 0.93), (128, 0.93)):
        scheme = Scheme(4, size)
        order = correlated_order(weight, size)
        contiguous = relative_error(weight, round_to_nearest(weight, scheme, name=NAME))
        assert relative_error(weight, quantise_ordered(weight, order, scheme, name=NAME)) < gain * contiguous


def test_it_gains_on_columns_that_are_large_in_different_rows() -> None:
    generator = torch.Generator().manual_seed(2)
    kinds = (0.8 * torch.randn(8, 512, generator=generator)).exp()
    weight = torch.randn(256, 512, generator=generator) * kinds.repeat_interleave(32, 0)
    by_size = clustered(magnitude_profile(weight, 1), 32)
    scheme = Scheme(4, 32)
    sorted_error, error, contiguous = (
        relative_error(weight, quantise_ordered(weight, order, scheme, name=NAME))
        for order in (by_size, correlated_order(weight, 32), torch.arange(512))
    )
    assert error < 0.97 * sorted_error
    assert error < 0.9 * contiguous


def test_gptq_takes_an_order_too() -> None:
    weight, inputs = heavy_tailed(64, 256, 3), correlated_inputs(1024, 256, 4)
    hessian = inputs.T @ inputs
    order = correlated_order(weight, 32, hessian)
    ordered = gptq(weight, hessian, Scheme(4, 32), name=NAME, order_I=order)
    assert ordered.order_I is not None
    assert torch.equal(ordered.order_I, order)
    contiguous = gptq(weight, hessian, Scheme(4, 32), name=NAME)
    assert squared_error(weight, ordered, hessian) < squared_error(weight, contiguous, hessian)


def test_groups_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="96 inputs"):
        correlated_order(torch.ones(2, 96), 64)
    with pytest.raises(ConfigError, match="96 inputs"):
        quantise_ordered(torch.ones(2, 96), torch.arange(96), Scheme(4, 64), name=NAME)
