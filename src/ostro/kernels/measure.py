"""Times each native kernel beside what the machine does at most: how fast it reads memory, how fast it multiplies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from ostro.core.sampling import SamplingParams
from ostro.kernels.dispatch import native
from ostro.kernels.packed_linear import PackedMatrices
from ostro.kernels.packed_linear.layout import Packed, Scheme, empty
from ostro.kernels.paged_attention import chunk_attention, paged_attention
from ostro.kernels.paged_attention.cache_rows import row_size
from ostro.kernels.pick_tokens import pick_tokens
from ostro.kernels.rms_norm import rms_norm
from ostro.kernels.rope_write import rope_write

# The largest product of a 7B model, in as many copies as no cache holds.
INPUTS, OUTPUTS, COPIES = 4096, 14336, 8
ROWS = (1, 4, 16, 256)
# Its attention, and rows of a batch. What a batch makes is memory that was used before: a larger one would be new each
# time, and the system would be measured that clears it.
HEADS, KV_HEADS, HEAD_DIM, BLOCK = 32, 8, 128, 16
TALL = 1024
PROBE_BYTES = 1 << 29


@dataclass(frozen=True)
class Machine:
    """read: bytes a second from memory. multiply: int8 multiplications and additions a second, 0 where not known.
    floats: those of float32 a second."""

    kernels: str
    threads: int
    read: float
    multiply: float
    floats: float


@dataclass(frozen=True)
class Timing:
    """One kernel at one shape. seconds: the median call. bytes: read and written by one. operations: multiplications
    and additions of one, which are of float32 with `floats`."""

    kernel: str
    shape: str
    seconds: float
    bytes: int
    operations: int = 0
    floats: bool = False

    def share(self, machine: Machine) -> float:
        """Of the speed that the nearer of the two limits would allow, 0 to 1 (and a little over it by noise)."""
        least = self.bytes / machine.read
        rate = machine.floats if self.floats else machine.multiply
        if self.operations and rate:
            least = max(least, self.operations / rate)
        return least / self.seconds

    def as_json(self, machine: Machine) -> dict[str, Any]:
        return {**asdict(self), "share_of_roofline": round(self.share(machine), 4)}


def measure_machine() -> Machine:
    """Raises RuntimeError where there is no native module."""
    if native is None:
        raise RuntimeError("there is no native module, so there is nothing to measure; see `ostro doctor`")
    return Machine(
        native.packed_kernels(),
        native.pool_threads(),
        native.read_bandwidth(PROBE_BYTES),
        native.multiply_rate(),
        native.float_rate(),
    )


def measure_kernels(rounds: int = 5) -> Iterator[Timing]:
    """One after the other, in the order that they are worth showing in."""
    with torch.inference_mode():
        for bits in (4, 8):
            yield from _products(bits, rounds)
        yield from _gated(rounds)
        for dtype in (torch.float16, torch.int8):
            yield _decoding_attention(dtype, rounds)
            yield _prefill_attention(dtype, rounds)
        yield _norm(rounds)
        yield _rope(rounds)
        yield _pick(rounds)


def _products(bits: int, rounds: int) -> Iterator[Timing]:
    layers = [PackedMatrices([_matrix(bits)]) for _ in range(COPIES)]
    size = layers[0].parts[0].bytes
    for rows in ROWS:
        x = torch.randn(rows, INPUTS)
        seconds = _median([partial(layer.linear, x) for layer in layers], rounds)
        shape = f"int{bits}, {rows} x {INPUTS} by {INPUTS} x {OUTPUTS}"
        yield Timing("packed_linear", shape, seconds, size, 2 * rows * INPUTS * OUTPUTS)


def _gated(rounds: int) -> Iterator[Timing]:
    """Gate, up and silu in one pass."""
    layers = [PackedMatrices([_matrix(4), _matrix(4)]) for _ in range(COPIES // 2)]
    size = 2 * layers[0].parts[0].bytes
    for rows in (1, 256):
        x = torch.randn(rows, INPUTS)
        seconds = _median([partial(layer.gated, x) for layer in layers], rounds)
        shape = f"int4, {rows} x {INPUTS} by 2 x {INPUTS} x {OUTPUTS}, silu"
        yield Timing("gated", shape, seconds, size, 4 * rows * INPUTS * OUTPUTS)


def _matrix(bits: int) -> Packed:
    packed = empty(Scheme(bits, 32), OUTPUTS, INPUTS)
    packed.panels.random_(0, 256)
    packed.scales.fill_(0.01)
    return packed


def _cache(dtype: torch.dtype, tokens: int) -> torch.Tensor:
    """Keys and values, zeros."""
    return torch.zeros((2, tokens, KV_HEADS, row_size(HEAD_DIM, dtype)), dtype=dtype)


def _decoding_attention(dtype: torch.dtype, rounds: int) -> Timing:
    context, sequences = 4096, 8
    blocks = context // BLOCK
    cache = _cache(dtype, sequences * context)
    q = torch.randn(sequences, HEADS, HEAD_DIM)
    table = torch.arange(sequences * blocks, dtype=torch.int32).view(sequences, blocks)
    positions = torch.full((sequences,), context - 1)
    rows = torch.arange(sequences, dtype=torch.int32)
    seconds = _median(
        [lambda: paged_attention(q, cache[0], cache[1], table, positions, rows, BLOCK, 0, HEAD_DIM**-0.5)], rounds * 2
    )
    shape = f"{_plain(dtype)} cache, {sequences} sequences of {context}, {HEADS} over {KV_HEADS} heads"
    operations = 4 * sequences * context * HEADS * HEAD_DIM
    return Timing("paged_attention", shape, seconds, cache.nbytes, operations, floats=True)


def _prefill_attention(dtype: torch.dtype, rounds: int) -> Timing:
    rows, start = 512, 512
    cache = _cache(dtype, start + rows)
    q = torch.randn(rows, HEADS, HEAD_DIM)
    blocks = torch.arange((start + rows) // BLOCK, dtype=torch.int32)
    seconds = _median([lambda: chunk_attention(q, cache[0], cache[1], blocks, start, BLOCK, 0, HEAD_DIM**-0.5)], rounds)
    shape = f"{_plain(dtype)} cache, {rows} rows after {start}, {HEADS} over {KV_HEADS} heads"
    operations = 4 * rows * (start + rows // 2) * HEADS * HEAD_DIM
    return Timing("chunk_attention", shape, seconds, cache.nbytes, operations, floats=True)


def _norm(rounds: int) -> Timing:
    batches = torch.randn(COPIES, TALL, INPUTS)
    seconds = _median([partial(rms_norm, x, torch.ones(INPUTS), 1e-5) for x in batches], rounds)
    return Timing("rms_norm", f"float32, {TALL} x {INPUTS}", seconds, 2 * batches[0].nbytes)


def _rope(rounds: int) -> Timing:
    batches = torch.randn(COPIES, TALL, (HEADS + 2 * KV_HEADS) * HEAD_DIM)
    angles = torch.rand(TALL, HEAD_DIM // 2)
    cache, slots = _cache(torch.float16, TALL), torch.arange(TALL)
    cos, sin = angles.cos(), angles.sin()
    calls: list[Callable[[], Any]] = [
        partial(rope_write, qkv, cos, sin, None, slots, cache[0], cache[1], HEADS) for qkv in batches
    ]
    seconds = _median(calls, rounds)
    turned = TALL * HEADS * HEAD_DIM * 4
    shape = f"{TALL} x {HEADS} + 2 x {KV_HEADS} heads into a float16 cache"
    return Timing("rope_write", shape, seconds, batches[0].nbytes + turned + cache.nbytes)


def _pick(rounds: int) -> Timing:
    rows, vocabulary = 64, 131_072
    probs = torch.softmax(torch.randn(rows, vocabulary) * 3, dim=-1)
    draws = torch.rand(rows, dtype=torch.float64)
    params = [SamplingParams(top_p=0.9, top_k=50)] * rows
    seconds = _median([lambda: pick_tokens(probs, draws, params)], rounds)
    return Timing("pick_tokens", f"{rows} of {vocabulary}, top_p 0.9, top_k 50", seconds, probs.nbytes)


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _median(calls: list[Callable[[], Any]], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        for call in calls:
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]
