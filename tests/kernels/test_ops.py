"""Row-wise ops (rms_norm, silu_mul, rope_write, linear) against their references, over odd shapes and both types."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ostro.kernels.linear import linear
from ostro.kernels.linear import reference as linear_reference
from ostro.kernels.paged_attention.cache_rows import decode, encode
from ostro.kernels.rms_norm import add_rms_norm, rms_norm
from ostro.kernels.rms_norm import reference as norm_reference
from ostro.kernels.rope_write import reference as rope_reference
from ostro.kernels.rope_write import rope_write
from ostro.kernels.silu_mul import reference as silu_reference
from ostro.kernels.silu_mul import silu_mul

DTYPES = [torch.float32, torch.bfloat16]
# One rounding of a bfloat16 result is 2^-8 of it; a float32 sum in another order differs by far less than 1e-5.
TOLERANCE = {torch.float32: {"atol": 1e-6, "rtol": 1e-5}, torch.bfloat16: {"atol": 1e-6, "rtol": 2**-7}}
dtypes = st.sampled_from(DTYPES)
widths = st.one_of(st.integers(1, 70), st.sampled_from([127, 128, 129, 1000]))


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def random(*shape: int, dtype: torch.dtype, seed: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def check(ours: torch.Tensor, expected: torch.Tensor) -> None:
    assert ours.dtype == expected.dtype
    torch.testing.assert_close(ours, expected, **TOLERANCE[expected.dtype])


@given(st.integers(1, 40), widths, dtypes, st.integers(0, 99), st.sampled_from([1e-3, 1.0, 1e4]))
def test_rms_norm(rows: int, width: int, dtype: torch.dtype, seed: int, scale: float) -> None:
    with torch.inference_mode():
        x = random(rows, width, dtype=dtype, seed=seed, scale=scale)
        weight = random(width, dtype=dtype, seed=seed + 1)
        before = x.clone()
        check(rms_norm(x, weight, 1e-5), norm_reference.rms_norm(x, weight, 1e-5))
        assert torch.equal(x, before)


@given(st.integers(1, 40), widths, dtypes, st.integers(0, 99))
def test_add_rms_norm(rows: int, width: int, dtype: torch.dtype, seed: int) -> None:
    with torch.inference_mode():
        x, branch = random(rows, width, dtype=dtype, seed=seed), random(rows, width, dtype=dtype, seed=seed + 1)
        weight = random(width, dtype=dtype, seed=seed + 2)
        expected_sum = x + branch
        kept = branch.clone()
        total, normed = add_rms_norm(x, branch, weight, 1e-6)
        assert torch.equal(total, expected_sum)
        assert torch.equal(branch, kept)
        check(normed, norm_reference.rms_norm(expected_sum, weight, 1e-6))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_formula(dtype: torch.dtype) -> None:
    """The reference itself, in plain numbers: rms of (3, 4, 0, 0) is 2.5."""
    x = torch.tensor([[3.0, 4.0, 0.0, 0.0]], dtype=dtype)
    weight = torch.tensor([1.0, 2.0, 1.0, 1.0], dtype=dtype)
    expected = torch.tensor([[1.2, 3.2, 0.0, 0.0]], dtype=dtype)
    check(norm_reference.rms_norm(x, weight, 0.0), expected)
    check(rms_norm(x, weight, 0.0), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_takes_strided_rows_and_a_float32_weight(dtype: torch.dtype) -> None:
    wide = random(6, 40, dtype=dtype, seed=1)
    x, weight = wide[:, :20], random(20, dtype=torch.float32, seed=2)
    check(rms_norm(x, weight.to(dtype), 1e-5), norm_reference.rms_norm(x.clone(), weight.to(dtype), 1e-5))
    check(rms_norm(x.contiguous(), weight, 1e-5), norm_reference.rms_norm(x.clone(), weight, 1e-5))
    branch = random(20, 6, dtype=dtype, seed=3).T
    total, normed = add_rms_norm(x.contiguous(), branch, weight, 1e-5)
    check(total, x + branch)
    check(normed, norm_reference.rms_norm(x + branch, weight, 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 33])
def test_norm_of_extreme_rows_is_the_references(dtype: torch.dtype, width: int) -> None:
    weight = torch.ones(width, dtype=dtype)
    for value in (0.0, 1e-30, -1e15, 1e18):
        x = torch.full((2, width), value, dtype=dtype)
        ours = rms_norm(x, weight, 1e-5)
        assert torch.isfinite(ours).all(), value
        check(ours, norm_reference.rms_norm(x, weight, 1e-5))
    # A row that overflows float32 when squared, and rows of NaN and infinity, spoil only themselves.
    for value in (3e38, math.nan, math.inf):
        x = torch.ones(3, width, dtype=dtype)
        x[1, width // 2] = value
        ours, expected = rms_norm(x, weight, 1e-5), norm_reference.rms_norm(x, weight, 1e-5)
        torch.testing.assert_close(ours, expected, equal_nan=True, **TOLERANCE[dtype])
        assert torch.isfinite(ours[[0, 2]]).all()


@given(st.integers(1, 40), widths, dtypes, st.integers(0, 99), st.sampled_from([0.1, 3.0, 30.0]))
def test_silu_mul(rows: int, width: int, dtype: torch.dtype, seed: int, scale: float) -> None:
    with torch.inference_mode():
        gate_up = random(rows, 2 * width, dtype=dtype, seed=seed, scale=scale)
        # The reference rounds silu(gate) to the type before the product; the exact value is the fair middle.
        gate, up = gate_up.double().chunk(2, dim=-1)
        exact = gate / (1 + torch.exp(-gate)) * up
        rtol = 1e-5 if dtype == torch.float32 else 2**-6
        for out in (silu_mul(gate_up), silu_reference.silu_mul(gate_up)):
            assert out.dtype == dtype
            torch.testing.assert_close(out.double(), exact, atol=1e-6, rtol=rtol)


@given(st.integers(0, 9), st.lists(st.integers(1, 70), min_size=1, max_size=4), dtypes, st.integers(0, 99))
def test_silu_mul_of_projections_side_by_side(rows: int, sizes: list[int], dtype: torch.dtype, seed: int) -> None:
    with torch.inference_mode():
        gate_up = random(rows, 2 * sum(sizes), dtype=dtype, seed=seed)
        apart = [silu_mul(one.contiguous()) for one in gate_up.split([2 * size for size in sizes], dim=1)]
        for out in (silu_mul(gate_up, sizes), silu_reference.silu_mul(gate_up, sizes)):
            check(out, torch.cat(apart, dim=1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_silu_of_huge_gates(dtype: torch.dtype) -> None:
    gates = torch.tensor([-1e4, -200.0, -88.0, 0.0, 88.0, 1e4, 1e30, -1e30, math.inf, math.nan], dtype=dtype)
    up = torch.full_like(gates, 2.0)
    out = silu_mul(torch.cat((gates, up))[None])[0].float()
    expected = torch.tensor([0.0, 0.0, 0.0, 0.0, 176.0, 2e4, 2e30, 0.0, math.inf, math.nan])
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=2**-7, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_silu_mul_takes_strided_rows(dtype: torch.dtype) -> None:
    gate_up = random(4, 96, dtype=dtype, seed=0)[:, 8:32]
    torch.testing.assert_close(
        silu_mul(gate_up), silu_reference.silu_mul(gate_up.contiguous()), atol=1e-6, rtol=2 * TOLERANCE[dtype]["rtol"]
    )


@given(
    rows=st.integers(1, 30),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    half=st.one_of(st.integers(1, 20), st.sampled_from([32, 48, 64])),
    dtype=dtypes,
    scaled=st.booleans(),
    seed=st.integers(0, 99),
)
def test_rope_write(
    rows: int, kv_heads: int, group: int, half: int, dtype: torch.dtype, scaled: bool, seed: int
) -> None:
    heads, dim = kv_heads * group, 2 * half
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        qkv = random(rows, (heads + 2 * kv_heads) * dim, dtype=dtype, seed=seed)
        angles = torch.rand(rows, half, generator=generator) * 1000
        cos, sin = angles.cos() * 1.1, angles.sin() * 1.1  # YaRN's factor: not a pure rotation.
        q_scale = torch.rand(rows, generator=generator) + 0.5 if scaled else None
        slots = torch.randperm(rows + 7, generator=generator)[:rows]
        k_cache = torch.full((rows + 7, kv_heads, dim), 7.0, dtype=dtype)
        v_cache = torch.full((rows + 7, kv_heads, dim), 8.0, dtype=dtype)
        q_expected, k_expected, v_expected = rope_reference.split_rotate(
            qkv.clone(), cos, sin, q_scale, heads, kv_heads
        )
        q = rope_write(qkv, cos, sin, q_scale, slots, k_cache, v_cache, heads)
        assert q.shape == (rows, heads, dim)
        # Sums of two products cancel: the error is relative to their size, not to the result. The reference rounds
        # q once more, before the scale.
        tolerance = {"atol": 2e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 2**-7, "rtol": 2**-6}
        torch.testing.assert_close(q, q_expected, **tolerance)
        torch.testing.assert_close(k_cache[slots], k_expected, **tolerance)
        assert torch.equal(v_cache[slots], v_expected)
        others = torch.ones(rows + 7, dtype=torch.bool)
        others[slots] = False
        assert (k_cache[others] == 7).all()
        assert (v_cache[others] == 8).all()


def test_rotation_in_plain_numbers() -> None:
    """Rotate-half pairs element d with d + D/2: a quarter turn sends (a, b) to (-b, a)."""
    qkv = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0]])
    cos, sin = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    k_cache, v_cache = torch.zeros(2, 1, 4), torch.zeros(2, 1, 4)
    q = rope_write(qkv, cos, sin, torch.tensor([2.0]), torch.tensor([1]), k_cache, v_cache, 1)
    assert q.flatten().tolist() == [-6.0, 4.0, 2.0, 8.0]
    assert k_cache[1, 0].tolist() == [-7.0, 6.0, 5.0, 8.0]
    assert v_cache[1, 0].tolist() == [9.0, 10.0, 11.0, 12.0]
    assert not k_cache[0].any()


@pytest.mark.parametrize("kept_as", [torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.float64])
@pytest.mark.parametrize("size", [1.0, 1e-7, 1e5, 0.0, float("nan")])
def test_rope_write_into_a_cache_of_another_type(kept_as: torch.dtype, size: float) -> None:
    """Rounded once, to the nearest number that the cache can hold; nothing is written beside the rows."""
    qkv = random(50, 4 * 8, dtype=torch.float32, seed=1, scale=size)
    cos, sin = torch.ones(50, 4), torch.zeros(50, 4)
    empty = encode(torch.full((60, 1, 8), 7.0), kept_as)
    k_cache, v_cache = empty.clone(), empty.clone()
    slots = torch.randperm(60)[:50]
    q = rope_write(qkv.clone(), cos, sin, None, slots, k_cache, v_cache, 2)
    torch.testing.assert_close(q.flatten(1), qkv[:, :16], equal_nan=True)
    for cache, x in ((k_cache, qkv[:, 16:24]), (v_cache, qkv[:, 24:])):
        expected = decode(encode(x.view(50, 1, 8), kept_as), torch.float64)
        torch.testing.assert_close(decode(cache[slots], torch.float64), expected, rtol=0, atol=0, equal_nan=True)
        others = torch.ones(60, dtype=torch.bool)
        others[slots] = False
        assert torch.equal(cache[others], empty[others])


@settings(max_examples=60)
@given(st.integers(1, 20), widths, widths, dtypes, st.integers(0, 99))
def test_linear(rows: int, inputs: int, outputs: int, dtype: torch.dtype, seed: int) -> None:
    with torch.inference_mode():
        x, weight = random(rows, inputs, dtype=dtype, seed=seed), random(outputs, inputs, dtype=dtype, seed=seed + 1)
        exact = x.double() @ weight.double().T
        for out in (linear(x, weight), linear_reference.linear(x, weight)):
            assert out.dtype == dtype
            rtol = 1e-5 if dtype == torch.float32 else 2**-7
            torch.testing.assert_close(out.double(), exact, atol=1e-5 * math.sqrt(inputs), rtol=rtol)


def test_linear_takes_strided_inputs_and_no_rows() -> None:
    x, weight = random(9, 40, dtype=torch.float32, seed=0), random(5, 20, dtype=torch.float32, seed=1)
    torch.testing.assert_close(linear(x[::2, :20], weight), x[::2, :20] @ weight.T)
    torch.testing.assert_close(linear(x[:, 20:], weight[1:4]), x[:, 20:] @ weight[1:4].T)
    assert linear(x[:0, :20], weight).shape == (0, 5)
    assert rms_norm(x[:0], torch.ones(40), 1e-5).shape == (0, 40)
    assert silu_mul(x[:0]).shape == (0, 20)
