"""Which implementation runs: native code wherever it may, the reference wherever it must, and never silently."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ostro.kernels import dispatch
from ostro.kernels.linear import linear
from ostro.kernels.paged_attention import paged_attention
from ostro.kernels.rms_norm import add_rms_norm, rms_norm
from ostro.kernels.rope_write import rope_write
from ostro.kernels.silu_mul import silu_mul

DTYPES = [torch.float32, torch.bfloat16]


def call_rms_norm(x: torch.Tensor) -> Any:
    return rms_norm(x, torch.ones(x.shape[1], dtype=x.dtype), 1e-5)


def call_add_rms_norm(x: torch.Tensor) -> Any:
    return add_rms_norm(x.clone(), x.flip(0).contiguous(), torch.ones(x.shape[1], dtype=x.dtype), 1e-5)


def call_silu_mul(x: torch.Tensor) -> Any:
    return silu_mul(x)


def call_rope_write(x: torch.Tensor) -> Any:
    rows, dim = x.shape[0], x.shape[1] // 4
    k_cache, v_cache = torch.zeros(rows, 1, dim, dtype=x.dtype), torch.zeros(rows, 1, dim, dtype=x.dtype)
    angles = torch.linspace(0, 50, rows * dim // 2).view(rows, -1)
    q = rope_write(x.clone(), angles.cos(), angles.sin(), None, torch.arange(rows), k_cache, v_cache, 2)
    return q, k_cache, v_cache


def call_paged_attention(x: torch.Tensor) -> Any:
    rows, dim = x.shape[0], x.shape[1] // 4
    cache = x.view(rows * 4, 1, dim)
    table = torch.arange(rows, dtype=torch.int32)[None]
    sequence = torch.zeros(rows, dtype=torch.int32)
    return paged_attention(
        x.view(rows, 4, dim), cache, cache.flip(0), table, torch.arange(rows), sequence, 4, 0, dim**-0.5
    )


# Each op by the name of the native function that it must reach.
CALLS: list[tuple[str, Callable[[torch.Tensor], Any]]] = [
    ("rms_norm", call_rms_norm),
    ("rms_norm", call_add_rms_norm),
    ("silu_mul", call_silu_mul),
    ("rope_write", call_rope_write),
    ("paged_attention", call_paged_attention),
]
each_op = pytest.mark.parametrize(("name", "call"), CALLS, ids=[call.__name__ for _, call in CALLS])


class Spy:
    """The native module, noting which of its functions are called."""

    def __init__(self, native: Any) -> None:
        self._native = native
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._native, name)

        def noted(*arguments: Any) -> Any:
            self.calls.append(name)
            return function(*arguments)

        return noted


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    if dispatch.native is None:
        pytest.fail(f"the native module is not there: {dispatch.reason}")
    spy = Spy(dispatch.native)
    for op in dispatch.OPS:
        monkeypatch.setattr(f"ostro.kernels.{op}.native", spy)
    return spy


def sample(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(6, 64, generator=torch.Generator().manual_seed(0)).to(dtype)


@each_op
@pytest.mark.parametrize("dtype", DTYPES)
def test_native_code_is_called(spy: Spy, name: str, call: Callable[..., Any], dtype: torch.dtype) -> None:
    with torch.inference_mode():
        call(sample(dtype))
    assert spy.calls == [name]


@each_op
def test_other_types_take_the_reference(spy: Spy, name: str, call: Callable[..., Any]) -> None:
    with torch.inference_mode():
        call(sample(torch.float64))
        call(sample(torch.float16))
    assert spy.calls == []


@each_op
def test_recorded_gradients_take_the_reference(spy: Spy, name: str, call: Callable[..., Any]) -> None:
    x = sample().requires_grad_()
    out = call(x)
    assert spy.calls == []
    first = out[-1] if name == "rms_norm" and isinstance(out, tuple) else out[0] if isinstance(out, tuple) else out
    first.sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@each_op
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_reference_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, name: str, call: Callable[..., Any], dtype: torch.dtype
) -> None:
    with torch.inference_mode():
        native = call(sample(dtype))
        monkeypatch.setattr(dispatch, "NATIVE_DTYPES", {})
        plain = call(sample(dtype))
    rtol = 1e-5 if dtype == torch.float32 else 2**-6
    torch.testing.assert_close(native, plain, atol=1e-5 if dtype == torch.float32 else 2**-7, rtol=rtol)


@each_op
@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_do_not_change_a_bit(name: str, call: Callable[..., Any], dtype: torch.dtype) -> None:
    """Rows are shared out over threads, never a sum within a row. Large enough for several threads to be used."""
    x = torch.randn(257, 1024, generator=torch.Generator().manual_seed(1)).to(dtype)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with torch.inference_mode():
                results.append(call(x.clone()))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=0, rtol=0)


def test_linear_reaches_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    from ostro.kernels import linear as module

    if module.onednn is None:
        pytest.skip("this PyTorch has no direct oneDNN operator, and the doctor says so")
    calls = []

    def noted(*arguments: Any) -> Any:
        calls.append(arguments)
        return operator(*arguments)

    operator = module.onednn
    monkeypatch.setattr(module, "onednn", noted)
    x, weight = sample(), torch.randn(8, 64)
    with torch.inference_mode():
        linear(x, weight)
        assert len(calls) == 1
        linear(x.double(), weight.double())
    linear(x.requires_grad_(), weight).sum().backward()
    assert len(calls) == 1
    assert x.grad is not None


def test_describe_lists_every_op() -> None:
    rows = dispatch.describe()
    assert {row["op"] for row in rows} == {
        "rms_norm",
        "silu_mul",
        "rope_write",
        "paged_attention",
        "pick_tokens",
        "linear",
        "packed_linear",
        "decoder_step",
    }
    assert all(row["cpu"] and row["why"] for row in rows)
    # Every folder of an op is among them, so that a new one cannot be forgotten.
    from pathlib import Path

    import ostro.kernels

    folders = {path.parent.name for path in Path(ostro.kernels.__path__[0]).glob("*/reference.py")}
    assert {row["op"] for row in rows} - {"decoder_step"} == folders


REPORT = """
import torch
from ostro.kernels import dispatch
from ostro.kernels.rms_norm import rms_norm
with torch.inference_mode():
    print(rms_norm(torch.tensor([[3.0, 4.0]]), torch.ones(2), 0.0).tolist()[0][0])
print(dispatch.native is None, dispatch.summary())
"""


def report(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", REPORT], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_ostro_kernels_reference_turns_native_code_off() -> None:
    out = report(OSTRO_KERNELS="reference")
    assert "True PyTorch reference (OSTRO_KERNELS=reference)" in out
    assert out.startswith("0.848")


def test_a_module_that_does_not_load_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ostro._native", None)  # import of None raises ImportError
    import ostro

    monkeypatch.delattr(ostro, "_native", raising=False)
    monkeypatch.delenv("OSTRO_KERNELS", raising=False)
    native, reason = dispatch._load()
    assert native is None
    assert "did not load" in reason
    assert "C++17" in reason
