"""Products with quantised weights: every instruction set that this machine runs against the definition in PyTorch."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ostro.core.errors import ConfigError
from ostro.kernels.dispatch import native
from ostro.kernels.packed_linear import PackedMatrices, layout, reference
from ostro.kernels.packed_linear.layout import Codes, Packed, Scheme, pack, unpack

CHOICES = [] if native is None else native.packed_choices()
schemes = st.builds(Scheme, st.sampled_from([4, 8]), st.sampled_from([0, 32, 64, 128]), st.booleans())
# Activations are the same int8 codes on both sides; what differs is the order of a float32 sum, and one rounding.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2**-7}


@st.composite
def matrices(draw: st.DrawFn, scheme: Scheme | None = None, inputs: int | None = None) -> Codes:
    scheme = scheme or draw(schemes)
    size = scheme.group_size
    inputs = inputs or (size * draw(st.integers(1, 3)) if size else draw(st.integers(1, 200)))
    outputs = draw(st.one_of(st.integers(1, 70), st.sampled_from([32, 64, 96])))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    groups = scheme.groups(inputs)

    def halves(least: float, most: float) -> torch.Tensor:
        return (torch.rand(outputs, groups, generator=generator) * (most - least) + least).half()

    order = torch.randperm(inputs, generator=generator, dtype=torch.int32) if draw(st.booleans()) else None
    codes = torch.randint(0, 2**scheme.bits, (outputs, inputs), dtype=torch.uint8, generator=generator)
    # Codes at both ends of the range: there sums are largest, and a signed byte has no counterpart of its least value.
    codes[:, : draw(st.integers(0, inputs))] = draw(st.sampled_from([0, 2**scheme.bits - 1]))
    return Codes(scheme, codes, halves(-0.02, 0.02), halves(-1, 1) if scheme.shifted else None, order)


def inputs_for(matrix: Codes, rows: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.randn(rows, matrix.codes_OI.shape[1], generator=torch.Generator().manual_seed(seed))
    if seed % 3 == 0:
        x = x.sign() * 3  # every activation at its largest code
    return x.to(dtype)


def check(ours: torch.Tensor, expected: torch.Tensor) -> None:
    assert ours.dtype == expected.dtype
    scale = max(float(expected.float().abs().max()), 1e-6)
    difference = float((ours.float() - expected.float()).abs().max())
    assert difference <= TOLERANCE[expected.dtype] * scale, (difference, scale)


@given(matrices())
def test_panels_hold_the_codes(matrix: Codes) -> None:
    again = unpack(pack(matrix))
    assert torch.equal(again.codes_OI, matrix.codes_OI)
    assert torch.equal(again.scales_OG, matrix.scales_OG)
    assert torch.equal(again.dequantise(), matrix.dequantise())


@given(matrices())
def test_native_code_packs_as_plain_code_does(matrix: Codes) -> None:
    fill = 0 if matrix.scheme.shifted else layout.centre(matrix.scheme.bits)
    packed = pack(matrix).panels
    assert torch.equal(packed.flatten(), layout._pack_plainly(matrix.codes_OI, matrix.scheme.bits, fill).flatten())


def test_panels_lie_as_documented() -> None:
    codes = torch.randint(0, 16, (64, 64), dtype=torch.uint8)
    panels = pack(Codes(Scheme(4, 32), codes, torch.ones(64, 2).half())).panels
    for p, b, j, i, k in [(0, 0, 0, 0, 0), (1, 1, 7, 15, 3), (1, 0, 3, 9, 2)]:
        byte = int(panels[p, b, j, 4 * i + k])
        column = 32 * b + 4 * j + k
        assert byte & 15 == codes[32 * p + i, column]
        assert byte >> 4 == codes[32 * p + 16 + i, column]


@settings(deadline=None, max_examples=60)
@given(data=st.data(), rows=st.integers(1, 19), dtype=st.sampled_from(list(TOLERANCE)), seed=st.integers(0, 999))
def test_products(kernels: str, data: st.DataObject, rows: int, dtype: torch.dtype, seed: int) -> None:
    matrix = data.draw(matrices())
    x = inputs_for(matrix, rows, seed, dtype)
    check(PackedMatrices([pack(matrix)]).linear(x), reference.packed_linear(x, matrix))


@settings(deadline=None, max_examples=30)
@given(data=st.data(), rows=st.integers(1, 9), inputs=st.sampled_from([128, 384]), seed=st.integers(0, 999))
def test_stacked_matrices_of_several_schemes(
    kernels: str, data: st.DataObject, rows: int, inputs: int, seed: int
) -> None:
    parts = [data.draw(matrices(inputs=inputs)) for _ in range(data.draw(st.integers(2, 4)))]
    x = inputs_for(parts[0], rows, seed)
    expected = torch.cat([reference.packed_linear(x, part) for part in parts], dim=1)
    check(PackedMatrices([pack(part) for part in parts]).linear(x), expected)


@settings(deadline=None, max_examples=30)
@given(data=st.data(), scheme=schemes, rows=st.integers(1, 9), outputs=st.integers(1, 70), seed=st.integers(0, 99))
def test_gated(kernels: str, data: st.DataObject, scheme: Scheme, rows: int, outputs: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = scheme.group_size * 2 or 77
    groups = scheme.groups(inputs)

    def matrix() -> Codes:
        codes = torch.randint(0, 2**scheme.bits, (outputs, inputs), dtype=torch.uint8, generator=generator)
        scales = (torch.rand(outputs, groups, generator=generator) * 0.01).half()
        return Codes(scheme, codes, scales, -scales * 2 if scheme.shifted else None)

    gate, up = matrix(), matrix()
    x = inputs_for(gate, rows, seed)
    layer = PackedMatrices([pack(gate), pack(up)])
    assert layer.can_gate
    check(layer.gated(x), reference.gated(x, gate, up))


def test_many_rows_and_panels_over_threads(kernels: str) -> None:
    """More than fits a cache at once, more panels than threads, strided rows."""
    scheme = Scheme(4, 32)
    codes = torch.randint(0, 16, (1000, 2048), dtype=torch.uint8)
    matrix = Codes(scheme, codes, (torch.rand(1000, 64) * 0.01).half())
    wide = torch.randn(300, 4096)
    x = wide[:, :2048]
    check(PackedMatrices([pack(matrix)]).linear(x), reference.packed_linear(x, matrix))


@settings(deadline=None)
@given(matrix=matrices(), seed=st.integers(0, 99))
def test_lookup(matrix: Codes, seed: int) -> None:
    ids = torch.randint(0, matrix.codes_OI.shape[0], (7,), generator=torch.Generator().manual_seed(seed))
    rows = PackedMatrices([pack(matrix)]).lookup(ids, torch.float32)
    torch.testing.assert_close(rows, matrix.dequantise()[ids], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_no_number_comes_of_what_is_none(kernels: str, wrong: float) -> None:
    matrix = Codes(Scheme(4, 32), torch.full((40, 64), 9, dtype=torch.uint8), torch.ones(40, 2).half())
    x = torch.ones(3, 64)
    x[1, 40] = wrong
    out = PackedMatrices([pack(matrix)]).linear(x)
    assert out[1].isnan().all()
    assert out[[0, 2]].isfinite().all()
    assert reference.packed_linear(x, matrix)[1].isnan().all()


@pytest.mark.parametrize("value", [0.0, 1e-38, 1e-31, -1e-45])
def test_activations_of_nothing(kernels: str, value: float) -> None:
    matrix = Codes(Scheme(8, 32), torch.full((40, 64), 200, dtype=torch.uint8), torch.ones(40, 2).half())
    assert torch.equal(PackedMatrices([pack(matrix)]).linear(torch.full((2, 64), value)), torch.zeros(2, 40))


def test_rows_do_not_depend_on_their_neighbours(kernels: str) -> None:
    """A sequence's numbers are the same alone and in any batch."""
    matrix = Codes(Scheme(4, 32), torch.randint(0, 16, (96, 256), dtype=torch.uint8), torch.rand(96, 8).half())
    layer = PackedMatrices([pack(matrix)])
    x = torch.randn(23, 256)
    together = layer.linear(x)
    for rows in (1, 2, 5, 8):
        assert torch.equal(layer.linear(x[:rows].clone()), together[:rows])


def test_without_native_code_the_definition_runs() -> None:
    matrix = Codes(Scheme(4, 32), torch.randint(0, 16, (33, 64), dtype=torch.uint8), torch.rand(33, 2).half())
    layer = PackedMatrices([pack(matrix)])
    layer.native = None
    x = torch.randn(3, 64)
    assert torch.equal(layer.linear(x), reference.packed_linear(x, matrix))


@pytest.mark.parametrize(("bits", "group_size"), [(3, 32), (4, 33), (4, -32), (16, 32)])
def test_schemes_that_nothing_multiplies_are_refused(bits: int, group_size: int) -> None:
    with pytest.raises(ConfigError):
        Scheme(bits, group_size)


def test_a_group_that_does_not_divide_names_what_would() -> None:
    with pytest.raises(ConfigError, match=r"layer x has 192 inputs.*128.*32 or 64 divide it"):
        Scheme(4, 128).check(192, "layer x")


def test_arrays_of_the_wrong_kind_never_reach_native_code() -> None:
    good = pack(Codes(Scheme(4, 32), torch.zeros(32, 64, dtype=torch.uint8), torch.ones(32, 2).half()))
    for change in (
        {"scales": good.scales.float()},
        {"panels": good.panels[:, :1]},
        {"shifts": good.scales},
        {"order": torch.arange(64)},
    ):
        with pytest.raises(AssertionError):
            PackedMatrices([Packed(**{**good.__dict__, **change})])


@pytest.mark.skipif(native is None, reason="no native module")
def test_an_instruction_set_can_be_chosen() -> None:
    code = "from ostro.kernels.dispatch import native; print(native.packed_kernels())"

    def run(isa: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OSTRO_ISA": isa}
        return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)

    for isa in CHOICES:
        assert run(isa).stdout.strip() == isa
    refused = run("amx-2040")
    assert refused.returncode
    assert "OSTRO_ISA" in refused.stderr
    assert "portable" in refused.stderr


def test_a_gradient_goes_through_the_weights_as_they_are_meant() -> None:
    """Rounded activations have no gradient; it would be zero without a word."""
    torch.manual_seed(0)
    scheme = Scheme(4, 32)
    parts = [Codes(scheme, torch.randint(0, 16, (40, 64), dtype=torch.uint8), torch.rand(40, 2).half()) for _ in "ab"]
    layer = PackedMatrices([pack(part) for part in parts])
    x = torch.randn(3, 64, requires_grad=True)
    seen = torch.randn(3, 80)
    # Sums of a hundred numbers of up to fifteen, in another order.
    near = {"rtol": 1e-5, "atol": 1e-4}
    (found,) = torch.autograd.grad((layer.linear(x) * seen).sum(), x)
    torch.testing.assert_close(found, seen @ torch.cat([part.dequantise() for part in parts]), **near)
    (found,) = torch.autograd.grad(layer.gated(x).sum(), x)
    gate, up = (x @ part.dequantise().T for part in parts)
    (expected,) = torch.autograd.grad((torch.nn.functional.silu(gate) * up).sum(), x)
    torch.testing.assert_close(found, expected, **near)


def test_inputs_and_groups_that_do_not_fit_are_not_multiplied() -> None:
    scheme = Scheme(4, 64)
    packed = pack(Codes(scheme, torch.zeros(32, 128, dtype=torch.uint8), torch.ones(32, 2).half()))
    with pytest.raises(AssertionError):
        PackedMatrices([packed]).linear(torch.ones(1, 64))
    with pytest.raises(ConfigError, match="groups of 64 do not divide"):
        PackedMatrices([dataclasses.replace(packed, in_features=96, panels=packed.panels[:, :3].contiguous())])


@pytest.mark.parametrize("count", [1, 16_384, 16_385, 100_000])
def test_numbers_that_are_not_finite_are_found_wherever_they_are(count: int) -> None:
    for bad in (torch.nan, torch.inf, -torch.inf):
        for at in {0, count // 2, count - 1}:
            values = torch.randn(count).half()
            assert layout.all_finite(values)
            values[at] = bad
            assert not layout.all_finite(values)
