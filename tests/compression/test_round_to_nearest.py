"""Round to nearest against loops over every weight and code, and against every float16 scale there is."""

from __future__ import annotations

import pytest
import slow_reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from matrices import NAME, heavy_tailed, schemes

from ostro.compression.error import squared_error
from ostro.compression.rounding import round_to_nearest
from ostro.core.errors import CheckpointError, ConfigError
from ostro.kernels.packed_linear.layout import Codes, Scheme

rows = st.integers(1, 5)
multiples = st.integers(1, 3)
seeds = st.integers(0, 999)
sizes = st.sampled_from([1e-7, 1e-4, 0.02, 1.0, 1e3])


def groups_of(matrix: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    return matrix.reshape(len(matrix), scheme.groups(matrix.shape[1]), -1)


def allowed_values(codes: Codes, row: int, group: int) -> list[float]:
    shift = None if codes.shifts_OG is None else float(codes.shifts_OG[row, group])
    return slow_reference.values_of(codes.scheme, float(codes.scales_OG[row, group]), shift)


@given(rows, multiples, schemes, sizes, seeds, st.booleans())
def test_every_weight_becomes_the_nearest_value_of_its_group(
    outputs: int, multiple: int, scheme: Scheme, size: float, seed: int, search: bool
) -> None:
    weight = heavy_tailed(outputs, 64 * multiple, seed, size)
    codes = round_to_nearest(weight, scheme, name=NAME, search=search)
    given, taken = groups_of(weight, scheme), groups_of(codes.dequantise(), scheme)
    for row in range(outputs):
        for group in range(given.shape[1]):
            allowed = torch.tensor(allowed_values(codes, row, group))
            nearest = (given[row, group][:, None] - allowed).abs().amin(1)
            slack = 1e-6 * float(given[row, group].abs().max())
            assert ((given[row, group] - taken[row, group]).abs() <= nearest + slack).all()


@given(rows, multiples, schemes, seeds)
def test_the_error_is_at_most_half_a_step_where_nothing_is_clipped(
    outputs: int, multiple: int, scheme: Scheme, seed: int
) -> None:
    weight = heavy_tailed(outputs, 64 * multiple, seed)
    codes = round_to_nearest(weight, scheme, name=NAME)
    given, error = groups_of(weight, scheme), groups_of(weight - codes.dequantise(), scheme).abs()
    unclipped = 0
    for row in range(outputs):
        for group in range(given.shape[1]):
            allowed = allowed_values(codes, row, group)
            inside = (given[row, group] >= min(allowed)) & (given[row, group] <= max(allowed))
            half_step = abs(float(codes.scales_OG[row, group])) / 2
            assert (error[row, group][inside] <= half_step * 1.0001 + 1e-7).all()
            unclipped += int(inside.sum())
    assert unclipped >= weight.numel() * 0.8


@given(rows, multiples, schemes, sizes, seeds)
def test_without_search_the_extremes_of_a_group_decide(
    outputs: int, multiple: int, scheme: Scheme, size: float, seed: int
) -> None:
    weight = heavy_tailed(outputs, 64 * multiple, seed, size)
    codes = round_to_nearest(weight, scheme, name=NAME, search=False)
    given = groups_of(weight, scheme)
    for row in range(outputs):
        for group in range(given.shape[1]):
            scale, shift = slow_reference.plain_scale(given[row, group].tolist(), scheme)
            assert float(codes.scales_OG[row, group]) == pytest.approx(scale, rel=1e-3, abs=2**-24)
            if codes.shifts_OG is not None:
                assert float(codes.shifts_OG[row, group]) == shift


@given(rows, multiples, schemes, sizes, seeds, st.booleans())
def test_search_is_never_worse_than_no_search(
    outputs: int, multiple: int, scheme: Scheme, size: float, seed: int, important: bool
) -> None:
    weight = heavy_tailed(outputs, 64 * multiple, seed, size)
    importance = heavy_tailed(1, 64 * multiple, seed + 1)[0].square() if important else None
    plain = round_to_nearest(weight, scheme, name=NAME, search=False)
    searched = round_to_nearest(weight, scheme, name=NAME, importance_I=importance)
    counted = torch.ones(weight.shape[1]) if importance is None else importance
    errors = [groups_of((weight - c.dequantise()).square() * counted, scheme).sum(-1) for c in (searched, plain)]
    assert (errors[0] <= errors[1] * 1.0001 + 1e-30).all()


@pytest.mark.parametrize(("bits", "slack"), [(4, 1.03), (8, 1.25)])
def test_search_comes_near_the_best_of_all_float16_scales(bits: int, slack: float) -> None:
    scheme = Scheme(bits, 32)
    weight = heavy_tailed(16, 64, 5)
    codes = round_to_nearest(weight, scheme, name=NAME)
    best = sum(slow_reference.best_scale_error(group.tolist(), scheme) for group in weight.view(-1, 32))
    assert best * 0.9999 <= squared_error(weight, codes) <= best * slack


def test_search_gains_what_it_is_for() -> None:
    weight = torch.randn(64, 1024, generator=torch.Generator().manual_seed(0))
    for scheme, gain in (
        (Scheme(4, 32), 0.95),
        (Scheme(4, 128), 0.92),
        (Scheme(4, 0), 0.75),
        (Scheme(4, 32, True), 0.9),
    ):
        plain, searched = (
            squared_error(weight, round_to_nearest(weight, scheme, name=NAME, search=search))
            for search in (False, True)
        )
        assert searched < gain * plain, scheme


def test_a_scale_for_many_weights_leaves_the_largest_far_outside() -> None:
    weight = torch.randn(4, 4096, generator=torch.Generator().manual_seed(0))
    weight[:, 7] = 9.0
    plain, searched = (round_to_nearest(weight, Scheme(4, 0), name=NAME, search=search) for search in (False, True))
    assert squared_error(weight, searched) < 0.4 * squared_error(weight, plain)


def test_weights_at_the_lower_end_of_float16_are_kept() -> None:
    weight = torch.tensor([1.2e-7, -1.8e-7, 0.0, 6e-8]).repeat(16)[None]
    for scheme in (Scheme(4, 32), Scheme(4, 32, True)):
        for search in (False, True):
            result = round_to_nearest(weight, scheme, name=NAME, search=search).dequantise()
            assert ((result - weight).abs() <= 2**-25 * 1.001).all()


def test_a_shift_that_is_rounded_does_not_cost_the_maximum() -> None:
    # float16 knows halves only at 1000: the shift becomes 1000.0, and the range 1.2 instead of 1.0.
    weight = torch.linspace(1000.2, 1001.2, 32)[None]
    codes = round_to_nearest(weight, Scheme(4, 32, True), name=NAME, search=False)
    assert (codes.dequantise() - weight).abs().max() < 1.2 / 15 / 2 * 1.01


def test_importances_of_zero_say_nothing() -> None:
    weight = heavy_tailed(8, 64, 0)
    importance = torch.cat((torch.zeros(32), torch.full((32,), 1e-3)))
    for scheme in (Scheme(4, 32), Scheme(4, 32, True)):
        ours = round_to_nearest(weight, scheme, name=NAME, importance_I=importance)
        expected = round_to_nearest(weight, scheme, name=NAME)
        torch.testing.assert_close(ours.dequantise(), expected.dequantise())


@pytest.mark.parametrize("scheme", [Scheme(4, 32), Scheme(4, 32, True)])
def test_what_is_important_is_rounded_better(scheme: Scheme) -> None:
    weight = heavy_tailed(64, 128, 1)
    importance = torch.ones(128)
    importance[::16] = 100.0
    errors = [
        (weight - round_to_nearest(weight, scheme, name=NAME, importance_I=chosen).dequantise()).square()
        for chosen in (importance, None)
    ]
    assert errors[0][:, ::16].sum() < 0.7 * errors[1][:, ::16].sum()


@given(schemes)
def test_zeros_stay_zeros(scheme: Scheme) -> None:
    weight = heavy_tailed(4, 128, 2)
    weight[1] = 0.0
    weight[2, :64] = 0.0
    result = round_to_nearest(weight, scheme, name=NAME, importance_I=torch.zeros(128)).dequantise()
    assert (result[1] == 0).all()
    assert (weight[0] - result[0]).norm() < 0.3 * weight[0].norm()
    if scheme.group_size:
        assert (result[2, :64] == 0).all()


@given(schemes, st.sampled_from([torch.bfloat16, torch.float16]))
def test_other_types_are_taken_as_the_numbers_they_hold(scheme: Scheme, dtype: torch.dtype) -> None:
    weight = heavy_tailed(3, 64, 4).to(dtype)
    ours, expected = (round_to_nearest(value, scheme, name=NAME) for value in (weight, weight.float()))
    assert torch.equal(ours.codes_OI, expected.codes_OI)
    assert torch.equal(ours.scales_OG, expected.scales_OG)


def test_slices_of_rows_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = heavy_tailed(7, 96, 3)
    whole = round_to_nearest(weight, Scheme(4, 32, True), name=NAME)
    monkeypatch.setattr("ostro.compression.rounding.SLICE", 200)
    sliced = round_to_nearest(weight, Scheme(4, 32, True), name=NAME)
    torch.testing.assert_close(sliced.dequantise(), whole.dequantise())


def test_groups_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"layers\.3.*96 inputs.*64 do not divide"):
        round_to_nearest(torch.ones(2, 96), Scheme(4, 64), name=NAME)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_counted_and_refused(bad: float) -> None:
    weight = heavy_tailed(4, 64, 0)
    weight[1, 3] = weight[2, 60] = weight[3, 0] = bad
    with pytest.raises(CheckpointError, match=r"layers\.3\.attention\.q.* 3 of 256 weights"):
        round_to_nearest(weight, Scheme(4, 32), name=NAME)


@pytest.mark.parametrize("scheme", [Scheme(4, 32), Scheme(8, 0), Scheme(4, 32, True)])
@pytest.mark.parametrize("search", [False, True])
def test_weights_beyond_float16_scales_are_refused(scheme: Scheme, search: bool) -> None:
    weight = heavy_tailed(2, 64, 0)
    weight[0, 5] = -1e8
    with pytest.raises(CheckpointError, match=r"layers\.3.*float16"):
        round_to_nearest(weight, scheme, name=NAME, search=search)
