"""GPTQ against optimal brain quantisation done input by input, and against rounding to nearest."""

from __future__ import annotations

import pytest
import slow_reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import NAME, correlated_inputs, heavy_tailed, schemes

from ostro.compression.error import relative_error, squared_error
from ostro.compression.gptq import gptq, inverse_factor
from ostro.compression.rounding import round_to_nearest
from ostro.core.errors import CheckpointError, ConfigError
from ostro.kernels.packed_linear.layout import Scheme

multiples = st.integers(1, 3)
seeds = st.integers(0, 999)


def hessian(inputs_TI: torch.Tensor) -> torch.Tensor:
    return inputs_TI.T @ inputs_TI


@pytest.mark.parametrize("scheme", [Scheme(4, 32), Scheme(4, 64), Scheme(4, 0), Scheme(4, 32, True), Scheme(8, 32)])
def test_it_is_optimal_brain_quantisation(scheme: Scheme) -> None:
    weight, h = heavy_tailed(4, 64, 1), hessian(correlated_inputs(256, 64, 2))
    expected = slow_reference.gptq(weight, h, scheme, damping=0.01).float()
    ours = gptq(weight, h, scheme, name=NAME, damping=0.01).dequantise()
    # Rounding errors may tip a weight that lies half-way, and what follows it in its row.
    rows_alike = ((ours - expected).abs() <= 1e-6).all(1)
    assert rows_alike.sum() >= 3
    assert (ours - expected).norm() <= 0.2 * (weight - expected).norm()


@settings(max_examples=40)
@given(st.integers(1, 9), multiples, schemes, seeds, st.booleans())
def test_it_beats_rounding_to_nearest_on_correlated_inputs(
    outputs: int, multiple: int, scheme: Scheme, seed: int, act_order: bool
) -> None:
    inputs = 64 * multiple
    weight, h = heavy_tailed(outputs, inputs, seed), hessian(correlated_inputs(8 * inputs, inputs, seed + 1))
    nearest = round_to_nearest(weight, scheme, name=NAME, importance_I=h.diagonal())
    ours = gptq(weight, h, scheme, name=NAME, act_order=act_order)
    assert squared_error(weight, ours, h) < squared_error(weight, nearest, h)


def test_it_halves_the_error_of_a_layer() -> None:
    weight, h = heavy_tailed(128, 256, 3), hessian(correlated_inputs(2048, 256, 4))
    scheme = Scheme(4, 32)
    nearest = relative_error(weight, round_to_nearest(weight, scheme, name=NAME), h)
    ours = relative_error(weight, gptq(weight, h, scheme, name=NAME), h)
    ordered = relative_error(weight, gptq(weight, h, scheme, name=NAME, act_order=True), h)
    assert ours < 0.8 * nearest
    assert ordered < ours


@given(st.integers(1, 5), multiples, schemes, seeds, st.sampled_from([0.5, 1.0, 3.0]))
def test_without_correlation_it_is_rounding_to_nearest(
    outputs: int, multiple: int, scheme: Scheme, seed: int, power: float
) -> None:
    weight = heavy_tailed(outputs, 64 * multiple, seed)
    ours = gptq(weight, power * torch.eye(64 * multiple), scheme, name=NAME)
    nearest = round_to_nearest(weight, scheme, name=NAME)
    torch.testing.assert_close(ours.dequantise(), nearest.dequantise(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scheme", [Scheme(4, 32), Scheme(4, 96), Scheme(4, 0), Scheme(8, 192, True)])
def test_the_width_of_a_block_does_not_show(scheme: Scheme) -> None:
    weight, h = heavy_tailed(6, 192, 5), hessian(correlated_inputs(1024, 192, 6))
    results = [gptq(weight, h, scheme, name=NAME, block=block).dequantise() for block in (1, 50, 64, 1000)]
    for result in results[1:]:
        assert ((result - results[0]).abs() <= 1e-6).all(1).sum() >= 5


@given(st.sampled_from([32, 64]), seeds, st.booleans())
def test_the_order_of_activations_is_a_permutation_that_dequantising_undoes(
    size: int, seed: int, shifted: bool
) -> None:
    weight, h = heavy_tailed(3, 128, seed), hessian(correlated_inputs(512, 128, seed))
    codes = gptq(weight, h, Scheme(4, size, shifted), name=NAME, act_order=True)
    assert codes.order_I is not None
    assert codes.order_I.dtype == torch.int32
    order = codes.order_I.long()
    assert torch.equal(order.sort().values, torch.arange(128))
    assert (h.diagonal()[order].diff() <= 0).all()
    # The same columns given in that order, without an order, are the same matrix.
    sorted_codes = gptq(weight[:, order], h[order][:, order], Scheme(4, size, shifted), name=NAME)
    assert torch.equal(codes.dequantise()[:, order], sorted_codes.dequantise())


def test_inputs_that_were_always_zero_are_rounded_to_nearest() -> None:
    inputs = correlated_inputs(512, 64, 7)
    inputs[:, 10] = inputs[:, 40] = 0.0
    weight = heavy_tailed(8, 64, 8)
    codes = gptq(weight, hessian(inputs), Scheme(4, 32), name=NAME, damping=0.0)
    error = (weight - codes.dequantise()).abs()[:, [10, 40]]
    clipped = (weight.abs() > 7 * codes.scales_OG.float().abs().repeat_interleave(32, 1))[:, [10, 40]]
    assert (error <= codes.scales_OG.float().abs() / 2 + 1e-7)[~clipped].all()
    nothing = gptq(weight, torch.zeros(64, 64), Scheme(4, 32), name=NAME)
    nearest = round_to_nearest(weight, Scheme(4, 32), name=NAME)
    torch.testing.assert_close(nothing.dequantise(), nearest.dequantise())


@given(st.integers(1, 40), seeds)
def test_the_factor_is_that_of_the_inverse(inputs: int, seed: int) -> None:
    h = hessian(correlated_inputs(4 * inputs, inputs, seed)).double()
    factor = inverse_factor(h.float(), 0.01, NAME).double()
    damped = h + 0.01 * h.diagonal().mean() * torch.eye(inputs)
    assert torch.equal(factor, factor.triu())
    torch.testing.assert_close(factor.T @ factor @ damped, torch.eye(inputs).double(), rtol=0, atol=2e-3)


def test_an_input_that_was_always_zero_counts_as_the_mean_of_the_others() -> None:
    inputs = correlated_inputs(64, 16, 3)
    inputs[:, 2] = 0.0
    h = hessian(inputs)
    filled = h.clone()
    filled[2, 2] = h.diagonal().sum() / 15
    expected = torch.linalg.cholesky(torch.linalg.inv(filled.double()), upper=True).float()
    torch.testing.assert_close(inverse_factor(h, 0.0, NAME), expected, rtol=1e-3, atol=1e-5)


def test_fewer_tokens_than_inputs_are_enough() -> None:
    weight, inputs = heavy_tailed(16, 128, 9), correlated_inputs(20, 128, 10)
    h = hessian(inputs)
    for damping in (0.01, 0.0):  # Without damping the Hessian is singular: some is added.
        codes = gptq(weight, h, Scheme(4, 32), name=NAME, damping=damping)
        nearest = round_to_nearest(weight, Scheme(4, 32), name=NAME)
        assert squared_error(weight, codes, h) < squared_error(weight, nearest, h)


def test_a_hessian_that_no_damping_helps_is_refused() -> None:
    h = torch.eye(64)
    h[0, 1] = h[1, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"layers\.3.*not positive definite, not even with 100 times"):
        gptq(heavy_tailed(2, 64, 0), h, Scheme(4, 32), name=NAME)


def test_weights_and_hessian_are_left_as_they_were() -> None:
    for outputs in (1, 4):
        weight, h = heavy_tailed(outputs, 64, 1), hessian(correlated_inputs(128, 64, 2))
        kept = weight.clone(), h.clone()
        gptq(weight, h, Scheme(4, 32), name=NAME)
        assert torch.equal(weight, kept[0])
        assert torch.equal(h, kept[1])


def test_bad_numbers_are_refused_by_name() -> None:
    weight, h = heavy_tailed(2, 64, 0), torch.eye(64)
    with pytest.raises(ConfigError, match=r"layers\.3.*do not divide"):
        gptq(weight[:, :48], h[:48, :48], Scheme(4, 32), name=NAME)
    h[3, 3] = float("nan")
    with pytest.raises(CheckpointError, match=r"layers\.3.* 1 of 4096 calibration statistics"):
        gptq(weight, h, Scheme(4, 32), name=NAME)
    weight[0, 0] = float("inf")
    with pytest.raises(CheckpointError, match=r"layers\.3.* 1 of 128 weights"):
        gptq(weight, torch.eye(64), Scheme(4, 32), name=NAME)
    with pytest.raises(CheckpointError, match="float16"):
        gptq(1e9 * heavy_tailed(2, 64, 0), torch.eye(64), Scheme(4, 32), name=NAME)
