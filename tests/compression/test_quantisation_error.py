"""Measures of error against their definition, and the per-tensor baseline that they judge."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matrices import NAME, correlated_inputs, heavy_tailed, schemes

from ostro.compression.error import relative_error, squared_error
from ostro.compression.grouping import quantise_ordered
from ostro.compression.per_tensor import per_tensor
from ostro.compression.rounding import round_to_nearest
from ostro.core.errors import CheckpointError
from ostro.kernels.packed_linear.layout import Codes, Scheme

seeds = st.integers(0, 999)


@given(st.integers(1, 9), schemes, seeds)
def test_errors_are_those_of_the_outputs(outputs: int, scheme: Scheme, seed: int) -> None:
    weight, inputs = heavy_tailed(outputs, 64, seed), correlated_inputs(100, 64, seed)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(seed))
    codes = quantise_ordered(weight, order, scheme, name=NAME)
    left = (weight - codes.dequantise()).double()
    outputs_wrong, outputs_right = inputs.double() @ left.T, inputs.double() @ weight.double().T
    hessian = inputs.T @ inputs
    expected = float(outputs_wrong.norm() / outputs_right.norm())
    assert relative_error(weight, codes, hessian) == pytest.approx(expected, rel=1e-2, abs=1e-6)
    assert squared_error(weight, codes, hessian) == pytest.approx(float(outputs_wrong.square().sum()), rel=2e-2)
    assert relative_error(weight, codes) == pytest.approx(float(left.norm() / weight.norm()), rel=1e-4)


def test_slices_of_rows_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = heavy_tailed(7, 64, 1)
    codes = round_to_nearest(weight, Scheme(4, 32, True), name=NAME)
    whole = relative_error(weight, codes)
    monkeypatch.setattr("ostro.compression.error.SLICE", 150)
    assert relative_error(weight, codes) == pytest.approx(whole)


def test_a_layer_of_zeros_has_no_error() -> None:
    weight = torch.zeros(4, 64)
    assert relative_error(weight, round_to_nearest(weight, Scheme(4, 32), name=NAME)) == 0.0


def test_codes_of_zeros_have_an_error_of_one() -> None:
    zeros = Codes(Scheme(4, 32), torch.full((4, 64), 8, dtype=torch.uint8), torch.ones(4, 2).half())
    assert relative_error(heavy_tailed(4, 64, 0), zeros) == pytest.approx(1.0)


@given(st.integers(1, 9), st.sampled_from([4, 8]), seeds)
def test_per_tensor_has_one_scale(outputs: int, bits: int, seed: int) -> None:
    weight = heavy_tailed(outputs, 64, seed)
    result = per_tensor(weight, bits)
    peak = weight.flatten()[weight.abs().argmax()]
    levels = result / (peak / -(2 ** (bits - 1)))
    # The scale is a float16: off by up to 1/2048 of itself.
    torch.testing.assert_close(levels, levels.round(), rtol=1e-3, atol=1e-3)
    assert (levels.round() >= -(2 ** (bits - 1))).all()
    assert (levels.round() <= 2 ** (bits - 1) - 1).all()
    assert (per_tensor(weight, bits, search=True) - weight).norm() <= (result - weight).norm() * 1.0001


def test_per_tensor_is_worse_than_groups() -> None:
    weight = heavy_tailed(128, 256, 1)
    errors = [
        float((weight - result).norm())
        for result in (
            round_to_nearest(weight, Scheme(4, 32), name=NAME).dequantise(),
            per_tensor(weight, 4, search=True),
            per_tensor(weight, 4),
        )
    ]
    assert errors[0] < 0.7 * errors[1]
    assert errors[1] < 0.8 * errors[2]


def test_per_tensor_refuses_what_is_no_number() -> None:
    with pytest.raises(CheckpointError, match="1 of 64 weights"):
        per_tensor(torch.full((1, 64), 1.0).index_fill(1, torch.tensor([3]), float("nan")), 4)
