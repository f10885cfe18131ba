"""The three attention ops over a paged cache against a float64 attention over plain, unpaged keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ostro.kernels.paged_attention import chunk_attention, paged_attention, reference
from ostro.kernels.paged_attention.cache_rows import decode, encode
from ostro.kernels.paged_attention.gathered import gathered_attention
from ostro.kernels.paged_attention.prefill import causal_mask
from ostro.kernels.paged_attention.prefill import chunk_attention as plain_chunk_attention

TOLERANCE = {torch.float32: {"atol": 2e-6, "rtol": 2e-5}, torch.bfloat16: {"atol": 2**-8, "rtol": 2**-7}}
ROW_OPS = {"paged": paged_attention, "gathered": gathered_attention, "reference": reference.paged_attention}
CHUNK_OPS = {"native": chunk_attention, "plain": plain_chunk_attention}


@dataclass
class Paged:
    """Sequences whose keys and values lie in shuffled blocks of one cache; every slot not theirs is poison."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    table: torch.Tensor


def make_cache(
    lengths: list[int],
    kv_heads: int,
    dim: int,
    block: int,
    dtype: torch.dtype,
    seed: int,
    poison: float,
    kept_as: torch.dtype | None = None,
) -> Paged:
    """kept_as: the cache's own type; the keys and values that are given back are what it makes of them."""
    generator = torch.Generator().manual_seed(seed)
    needed = [-(-length // block) for length in lengths]
    total = sum(needed) + 3
    order = (torch.randperm(total - 1, generator=generator) + 1).tolist()  # Block 0 is the null block.
    kept_as = kept_as or dtype
    k_cache = encode(torch.full((total * block, kv_heads, dim), poison), kept_as)
    v_cache = k_cache.clone()
    # The table is wider than any sequence needs, as the engine's is.
    table = torch.zeros(len(lengths), max(needed) + 2, dtype=torch.int32)
    keys, values = [], []
    for sequence, length in enumerate(lengths):
        blocks = [order.pop() for _ in range(needed[sequence])]
        table[sequence, : len(blocks)] = torch.tensor(blocks, dtype=torch.int32)
        slots = [blocks[at // block] * block + at % block for at in range(length)]
        for cache, plain in ((k_cache, keys), (v_cache, values)):
            rows = encode(torch.randn(length, kv_heads, dim, generator=generator).to(dtype), kept_as)
            cache[slots] = rows
            plain.append(decode(rows, torch.float32))
    return Paged(keys, values, k_cache, v_cache, table)


def plain_attention(
    q_HD: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, position: int, window: int, scale: float
) -> torch.Tensor:
    """One query, head by head, in float64."""
    heads, group = q_HD.shape[0], q_HD.shape[0] // keys.shape[1]
    start = max(0, position - window + 1) if window else 0
    out = torch.empty(q_HD.shape, dtype=torch.float64)
    for head in range(heads):
        k_CD = keys[start : position + 1, head // group].double()
        v_CD = values[start : position + 1, head // group].double()
        weights_C = torch.softmax(k_CD @ q_HD[head].double() * scale, dim=0)
        out[head] = weights_C @ v_CD
    return out


SHAPES = {
    "kv_heads": st.integers(1, 3),
    "group": st.integers(1, 5),
    "dim": st.sampled_from([1, 2, 6, 8, 16, 20, 40, 64, 128]),
    "block": st.sampled_from([1, 2, 3, 4, 16, 32]),
    "window": st.sampled_from([0, 0, 1, 2, 5, 33, 1000]),
    "dtype": st.sampled_from([torch.float32, torch.bfloat16]),
    "kept_as": st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int8]),
    "seed": st.integers(0, 999),
}


@pytest.mark.parametrize("op", sorted(ROW_OPS))
@settings(max_examples=60)
@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=4), strided=st.booleans(), **SHAPES)
def test_row_attention(
    kernels: str,
    op: str,
    lengths: list[int],
    strided: bool,
    kv_heads: int,
    group: int,
    dim: int,
    block: int,
    window: int,
    dtype: torch.dtype,
    kept_as: torch.dtype,
    seed: int,
) -> None:
    with torch.inference_mode():
        heads, scale = kv_heads * group, dim**-0.5
        cache = make_cache(lengths, kv_heads, dim, block, dtype, seed, float("nan"), kept_as)
        # Every sequence's last row and one from its middle, sequences out of order.
        rows = [(s, at) for s, n in enumerate(lengths) for at in sorted({n - 1, n // 2})][::-1]
        wide = torch.randn(len(rows), heads + 2, dim, generator=torch.Generator().manual_seed(seed)).to(dtype)
        q = wide[:, :heads] if strided else wide[:, :heads].contiguous()
        out = ROW_OPS[op](
            q,
            cache.k_cache,
            cache.v_cache,
            cache.table,
            torch.tensor([at for _, at in rows]),
            torch.tensor([s for s, _ in rows], dtype=torch.int32),
            block,
            window,
            scale,
        )
        assert out.is_contiguous()
        assert out.dtype == dtype
        expected = torch.stack(
            [plain_attention(q[i], cache.keys[s], cache.values[s], at, window, scale) for i, (s, at) in enumerate(rows)]
        )
        torch.testing.assert_close(out.double(), expected, **TOLERANCE[dtype])


@pytest.mark.parametrize("op", sorted(CHUNK_OPS))
@settings(max_examples=60)
@given(start=st.integers(0, 70), rows=st.integers(1, 40), strided=st.booleans(), **SHAPES)
def test_chunk_attention(
    kernels: str,
    op: str,
    start: int,
    rows: int,
    strided: bool,
    kv_heads: int,
    group: int,
    dim: int,
    block: int,
    window: int,
    dtype: torch.dtype,
    kept_as: torch.dtype,
    seed: int,
) -> None:
    with torch.inference_mode():
        heads, scale = kv_heads * group, dim**-0.5
        cache = make_cache([start + rows], kv_heads, dim, block, dtype, seed, float("nan"), kept_as)
        blocks = cache.table[0].clone()
        if window:  # Blocks before the window may have been given away: they point at the null block.
            blocks[: max(0, start + 1 - window) // block] = 0
        wide = torch.randn(rows, heads + 2, dim, generator=torch.Generator().manual_seed(seed)).to(dtype)
        q = wide[:, :heads] if strided else wide[:, :heads].contiguous()
        out = CHUNK_OPS[op](q, cache.k_cache, cache.v_cache, blocks, start, block, window, scale)
        expected = torch.stack(
            [plain_attention(q[i], cache.keys[0], cache.values[0], start + i, window, scale) for i in range(rows)]
        )
        assert out.shape == (rows, heads, dim)
        torch.testing.assert_close(out.double(), expected, **TOLERANCE[dtype])


@pytest.mark.parametrize("op", sorted(ROW_OPS))
@pytest.mark.parametrize("scale", [1.0, 300.0, -300.0])
def test_sharp_scores_do_not_overflow(op: str, scale: float) -> None:
    """Scores in the thousands of either sign: the softmax is a maximum, and no exponential overflows."""
    cache = make_cache([70], 1, 8, 4, torch.float32, 3, poison=0.0)
    q = torch.randn(1, 2, 8, generator=torch.Generator().manual_seed(4)) * 10
    where = (torch.tensor([69]), torch.tensor([0], dtype=torch.int32))
    with torch.inference_mode():
        out = ROW_OPS[op](q, cache.k_cache, cache.v_cache, cache.table, *where, 4, 0, scale)
    expected = plain_attention(q[0], cache.keys[0], cache.values[0], 69, 0, scale)
    torch.testing.assert_close(out[0].double(), expected, atol=1e-3, rtol=1e-3)


def test_a_window_of_one_returns_the_rows_own_value() -> None:
    cache = make_cache([10], 2, 8, 4, torch.float32, 5, poison=float("nan"))
    q = torch.randn(1, 4, 8)
    where = (torch.tensor([6]), torch.tensor([0], dtype=torch.int32))
    with torch.inference_mode():
        out = paged_attention(q, cache.k_cache, cache.v_cache, cache.table, *where, 4, 1, 1.0)
    torch.testing.assert_close(out[0], cache.values[0][6].repeat_interleave(2, dim=0))


def test_an_unusual_query_layout_is_not_misread() -> None:
    """Heads that are not densely packed cannot go to native code by address."""
    cache = make_cache([20], 1, 8, 4, torch.float32, 6, poison=0.0)
    q = torch.randn(1, 8, 3).transpose(1, 2)
    where = (torch.tensor([19]), torch.tensor([0], dtype=torch.int32))
    arguments = (cache.k_cache, cache.v_cache, cache.table, *where, 4, 0, 0.3)
    with torch.inference_mode():
        torch.testing.assert_close(paged_attention(q, *arguments), reference.paged_attention(q, *arguments))


@pytest.mark.parametrize("wrong", ["positions", "table", "rows"])
def test_native_attention_refuses_index_types_that_it_would_misread(wrong: str) -> None:
    from ostro.kernels import dispatch

    if dispatch.native is None:
        pytest.fail("the native module is not built")
    cache = make_cache([20], 1, 8, 4, torch.float32, 7, poison=0.0)
    positions, rows, table = torch.tensor([19]), torch.tensor([0], dtype=torch.int32), cache.table
    if wrong == "positions":
        positions = positions.int()
    elif wrong == "rows":
        rows = rows.long()
    else:
        table = table.long()
    with torch.inference_mode(), pytest.raises(AssertionError):
        paged_attention(torch.randn(1, 2, 8), cache.k_cache, cache.v_cache, table, positions, rows, 4, 0, 1.0)


@given(st.integers(0, 9), st.integers(1, 9), st.integers(0, 9), st.integers(0, 12))
def test_causal_mask(start: int, rows: int, before: int, window: int) -> None:
    key_start = max(0, start - before)
    mask = causal_mask(start, rows, key_start, window, torch.device("cpu"))
    for i in range(rows):
        for j in range(start + rows - key_start):
            query, key = start + i, key_start + j
            assert bool(mask[i, j]) == (key <= query and (not window or query - key < window))


@pytest.mark.parametrize("kept_as", [torch.float32, torch.float16, torch.int8])
@pytest.mark.parametrize("where", ["keys", "values"])
def test_no_number_comes_of_what_is_none(kernels: str, where: str, kept_as: torch.dtype) -> None:
    """A NaN that is seen is not taken for a key of no weight. Rows of the same piece that do not see it keep their
    numbers if it is a key's; a value's gets in with a weight of 0, which does not silence it."""
    cache = make_cache([40], 1, 16, 4, torch.float32, 8, 0.0, kept_as)
    slot = int(cache.table[0, 20 // 4]) * 4 + 20 % 4
    broken = cache.k_cache if where == "keys" else cache.v_cache
    broken[slot] = encode(torch.full((1, 1, 16), float("nan")), kept_as)[0]
    q = torch.randn(40, 2, 16)
    blocks = cache.table[0].contiguous()
    with torch.inference_mode():
        out = chunk_attention(q, cache.k_cache, cache.v_cache, blocks, 0, 4, 0, 0.25)
        alone = paged_attention(
            q[[19, 39]],
            cache.k_cache,
            cache.v_cache,
            cache.table,
            torch.tensor([19, 39]),
            torch.tensor([0, 0], dtype=torch.int32),
            4,
            0,
            0.25,
        )
    assert where == "values" or out[:20].isfinite().all()
    assert out[20:].isnan().all()
    assert alone[0].isfinite().all()
    assert alone[1].isnan().all()


@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 40), st.integers(0, 99), st.sampled_from([1e-35, 1, 1e4]))
def test_int8_rows_are_within_half_a_step(rows: int, heads: int, dim: int, seed: int, size: float) -> None:
    x = torch.randn(rows, heads, dim, generator=torch.Generator().manual_seed(seed)) * size
    kept = encode(x, torch.int8)
    assert kept.shape == (rows, heads, dim + 4)
    step = x.abs().amax(-1, keepdim=True) / 127
    assert ((decode(kept, torch.float32) - x).abs() <= step * 0.5001 + 1e-30).all()
