"""Times each native kernel beside what the machine does at most: how fast it reads memory, how fast it multiplies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from ostro.kernels.dispatch import native
from ostro.kernels.packed_linear import PackedMatrices
from ostro.kernels.packed_linear.layout import Packed, Scheme
from ostro.kernels.paged_attention import paged_attention
from ostro.kernels.paged_attention.cache_rows import row_size

# The largest product of a 7B model, in as many copies as no cache holds.
INPUTS, OUTPUTS, COPIES = 4096, 14336, 8
ROWS = (1, 4, 16, 256)
PROBE_BYTES = 1 << 29


@dataclass(frozen=True)
class Machine:
    """read: bytes a second from memory. multiply: int8 multiplications and additions a second, 0 where not known."""

    kernels: str
    threads: int
    read: float
    multiply: float


@dataclass(frozen=True)
class Timing:
    """One kernel at one shape. seconds: the median call. bytes: read from memory by one. operations: done by one."""

    kernel: str
    shape: str
    seconds: float
    bytes: int
    operations: int

    def share(self, machine: Machine) -> float:
        """Of the speed that the nearer of the two limits would allow, 0 to 1 (and a little over it by noise)."""
        least = self.bytes / machine.read
        if self.operations and machine.multiply:
            least = max(least, self.operations / machine.multiply)
        return least / self.seconds

    def as_json(self, machine: Machine) -> dict[str, Any]:
        return {**asdict(self), "share_of_roofline": round(self.share(machine), 4)}


def measure_machine() -> Machine:
    """Raises RuntimeError where there is no native module."""
    if native is None:
        raise RuntimeError("there is no native module, so there is nothing to measure; see `ostro doctor`")
    return Machine(native.packed_kernels(), native.pool_threads(), native.read_bandwidth(PROBE_BYTES),
                   native.multiply_rate())  # fmt: skip


def measure_kernels(rounds: int = 5) -> Iterator[Timing]:
    """One after the other, in the order that they are worth showing in."""
    with torch.inference_mode():
        for bits in (4, 8):
            yield from _products(bits, rounds)
        for dtype in (torch.float16, torch.int8):
            yield _attention(dtype, rounds)


def _products(bits: int, rounds: int) -> Iterator[Timing]:
    scheme = Scheme(bits, 32)
    codes_shape, scales_shape = scheme.shapes(OUTPUTS, INPUTS)
    layers = [
        PackedMatrices(
            [
                Packed(
                    scheme,
                    OUTPUTS,
                    INPUTS,
                    torch.randint(0, 256, codes_shape, dtype=torch.uint8),
                    torch.full(scales_shape, 0.01, dtype=torch.float16),
                )
            ]
        )
        for _ in range(COPIES)
    ]
    size = layers[0].parts[0].bytes
    for rows in ROWS:
        x = torch.randn(rows, INPUTS)
        seconds = _median([partial(layer.linear, x) for layer in layers], rounds)
        shape = f"int{bits}, {rows} x {INPUTS} by {INPUTS} x {OUTPUTS}"
        yield Timing("packed_linear", shape, seconds, size, 2 * rows * INPUTS * OUTPUTS)


def _attention(dtype: torch.dtype, rounds: int) -> Timing:
    heads, kv_heads, dim, context, block, sequences = 32, 8, 128, 4096, 16, 8
    blocks = context // block
    cache = torch.zeros((2, sequences * context, kv_heads, row_size(dim, dtype)), dtype=dtype)
    q = torch.randn(sequences, heads, dim)
    table = torch.arange(sequences * blocks, dtype=torch.int32).view(sequences, blocks)
    positions = torch.full((sequences,), context - 1)
    rows = torch.arange(sequences, dtype=torch.int32)
    seconds = _median(
        [lambda: paged_attention(q, cache[0], cache[1], table, positions, rows, block, 0, dim**-0.5)], rounds * 2
    )
    name = str(dtype).removeprefix("torch.")
    shape = f"{name} cache, {sequences} sequences of {context}, {heads} over {kv_heads} heads"
    return Timing("paged_attention", shape, seconds, cache.numel() * cache.element_size(), 0)


def _median(calls: list[Callable[[], Any]], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        for call in calls:
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]
