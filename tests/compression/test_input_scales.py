"""AWQ, SmoothQuant and the folding of their scales: outputs stay what they were, and come out nearer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import NAME, correlated_inputs, heavy_tailed

from ostro.compression.awq import rounding_error, search_scales
from ostro.compression.folding import fold
from ostro.compression.sampling import evenly, sampled_outputs
from ostro.compression.smoothquant import INT8_ROWS, int8_error, int8_tokens, search_smoothing, smoothing_scales
from ostro.core.errors import CheckpointError
from ostro.kernels.packed_linear.layout import Scheme

seeds = st.integers(0, 999)
INT4 = Scheme(4, 32)


@settings(max_examples=20)
@given(seeds, st.sampled_from([INT4, Scheme(4, 64, True), Scheme(4, 0)]), st.floats(0.0, 1.5))
def test_awq_is_never_worse_than_no_scales(seed: int, scheme: Scheme, spread: float) -> None:
    weight, inputs = heavy_tailed(16, 64, seed), correlated_inputs(128, 64, seed, spread)
    scales = search_scales([weight], inputs, scheme, name=NAME, steps=5)
    assert (scales > 0).all()
    ones = torch.ones(64)
    assert rounding_error(weight, inputs, scales, scheme, NAME) <= rounding_error(weight, inputs, ones, scheme, NAME)


def test_awq_gains_where_few_inputs_are_large() -> None:
    query, key = heavy_tailed(96, 128, 1), heavy_tailed(32, 128, 2)
    inputs = torch.randn(256, 128, generator=torch.Generator().manual_seed(3))
    inputs[:, ::40] *= 30.0
    scales = search_scales([query, key], inputs, INT4, name=NAME)
    both = torch.cat((query, key))
    plain = rounding_error(both, inputs, torch.ones(128), INT4, NAME)
    assert rounding_error(both, inputs, scales, INT4, NAME) < 0.5 * plain
    assert scales[::40].min() > scales[1:40].max()


def test_awq_gives_ones_where_nothing_helps() -> None:
    # Whole multiples of a scale are exact already.
    weight = torch.randint(-8, 8, (8, 64), generator=torch.Generator().manual_seed(0)).float() / 64
    weight[:, ::32] = -8 / 64
    inputs = correlated_inputs(64, 64, 1)
    assert torch.equal(search_scales([weight], inputs, INT4, name=NAME), torch.ones(64))
    assert torch.equal(search_scales([weight], torch.zeros(4, 64), INT4, name=NAME), torch.ones(64))


def test_awq_leaves_inputs_that_were_always_zero() -> None:
    inputs = correlated_inputs(128, 64, 4, spread=1.5)
    inputs[:, 7] = 0.0
    scales = search_scales([heavy_tailed(16, 64, 5)], inputs, INT4, name=NAME)
    assert scales[7] == 1.0
    assert scales.isfinite().all()


def test_awq_does_not_depend_on_the_size_of_all_inputs() -> None:
    weight, inputs = heavy_tailed(16, 64, 5), correlated_inputs(128, 64, 4, spread=1.5)
    inputs[:, 7] = 0.0
    scales = [search_scales([weight], size * inputs, INT4, name=NAME) for size in (1.0, 1024.0)]
    assert not torch.equal(scales[0], torch.ones(64))
    torch.testing.assert_close(scales[0], scales[1])


def test_smoothing_scales_are_the_papers_formula() -> None:
    weights = [torch.tensor([[1.0, -2.0, 0.0]]), torch.tensor([[0.5, 4.0, 0.0]])]
    largest = torch.tensor([9.0, 16.0, 5.0])
    torch.testing.assert_close(smoothing_scales(weights, largest), torch.tensor([3.0, 2.0, 1.0]))
    torch.testing.assert_close(smoothing_scales(weights, largest, 1.0), torch.tensor([9.0, 16.0, 1.0]))
    torch.testing.assert_close(smoothing_scales(weights, largest, 0.0), torch.tensor([1.0, 0.25, 1.0]))
    assert smoothing_scales(weights, torch.tensor([0.0, 1.0, 1.0]))[0] == 1.0


def test_at_one_half_both_sides_have_the_same_range() -> None:
    weight, inputs = heavy_tailed(16, 64, 1), correlated_inputs(64, 64, 2)
    scales = smoothing_scales([weight], inputs.abs().amax(0))
    torch.testing.assert_close((inputs / scales).abs().amax(0), (weight * scales).abs().amax(0))


@settings(max_examples=20)
@given(seeds, st.floats(0.0, 2.0))
def test_a_search_for_smoothing_is_never_worse_than_none_or_a_half(seed: int, spread: float) -> None:
    weight, inputs = heavy_tailed(16, 64, seed), correlated_inputs(128, 64, seed, spread)
    half = smoothing_scales([weight], inputs.abs().amax(0))
    found, none, fixed = (
        int8_error(weight, inputs, scales, INT8_ROWS, NAME)
        for scales in (search_smoothing([weight], inputs, name=NAME, steps=4), torch.ones(64), half)
    )
    assert found <= none
    assert found <= fixed


def test_smoothing_gains_where_few_inputs_are_large() -> None:
    weight = heavy_tailed(64, 128, 1)
    inputs = torch.randn(128, 128, generator=torch.Generator().manual_seed(3))
    inputs[:, ::40] *= 50.0
    scales = search_smoothing([weight], inputs, name=NAME)
    plain = int8_error(weight, inputs, torch.ones(128), INT8_ROWS, NAME)
    assert int8_error(weight, inputs, scales, INT8_ROWS, NAME) < 0.2 * plain


@given(seeds)
def test_int8_tokens_are_off_by_half_a_step_at_most(seed: int) -> None:
    inputs = correlated_inputs(5, 33, seed)
    inputs[2] = 0.0
    steps = inputs.abs().amax(1, keepdim=True) / 127
    rounded = int8_tokens(inputs)
    assert ((rounded - inputs).abs() <= steps * 0.5001).all()
    assert (rounded[2] == 0).all()


@given(seeds, st.sampled_from([torch.bfloat16, torch.float16, torch.float32]))
def test_a_norm_and_weights_with_folded_scales_give_the_same_outputs(seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    norm = (1 + 0.3 * torch.randn(64, generator=generator)).to(dtype)
    norm[5] = 0.0
    scales = (2 * torch.randn(64, generator=generator)).exp()
    scales[9] = 1e30  # More than can be folded.
    weight, inputs = heavy_tailed(8, 64, seed), correlated_inputs(16, 64, seed)
    folded, exact = fold(norm, scales)
    assert folded.dtype == dtype
    assert exact.dtype == torch.float32
    usual = [index for index in range(64) if index not in (5, 9)]
    torch.testing.assert_close(exact[usual], scales[usual], rtol=2**-7, atol=0)
    expected = (inputs * norm.float()) @ weight.T
    torch.testing.assert_close((inputs * folded.float()) @ (weight * exact).T, expected, rtol=1e-4, atol=1e-4)


@given(seeds, st.sampled_from([torch.bfloat16, torch.float32]))
def test_a_linear_layer_takes_powers_of_two_and_loses_nothing(seed: int, dtype: torch.dtype) -> None:
    maker = heavy_tailed(64, 32, seed).to(dtype)
    scales = correlated_inputs(1, 64, seed)[0].exp()
    folded, exact = fold(maker, scales)
    assert torch.equal(folded.float() * exact[:, None], maker.float())
    assert ((exact / scales).log2().abs() <= 0.5001).all()


@given(st.integers(1, 40), st.integers(1, 40))
def test_samples_are_spread_over_all_rows(count: int, most: int) -> None:
    taken = evenly(torch.arange(count)[:, None], most)[:, 0]
    assert len(taken) == min(count, most)
    assert taken[0] == 0
    assert len(taken) < 2 or taken.diff().min() >= 1
    assert count - taken[-1] <= -(-count // most)


def test_every_weight_gives_its_share_of_a_sample() -> None:
    sample = sampled_outputs([torch.full((300, 2), 1.0), torch.full((100, 2), 2.0), torch.full((1, 2), 3.0)], 100)
    assert [int((sample[:, 0] == value).sum()) for value in (1, 2, 3)] == [74, 24, 1]


@pytest.mark.parametrize("search", [search_scales, search_smoothing])
def test_inputs_that_are_no_numbers_are_refused(search: object) -> None:
    inputs = correlated_inputs(8, 64, 0)
    inputs[3, 3] = float("inf")
    assert callable(search)
    with pytest.raises(CheckpointError, match=r"layers\.3.* 1 of 512 calibration inputs"):
        search([heavy_tailed(4, 64, 0)], inputs, INT8_ROWS, name=NAME)
