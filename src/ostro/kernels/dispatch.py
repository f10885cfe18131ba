"""Which implementation an op takes, and why."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

import torch

from ostro.core.errors import ConfigError


def _load() -> tuple[ModuleType | None, str]:
    if os.environ.get("OSTRO_KERNELS") == "reference":
        return None, "OSTRO_KERNELS=reference"
    try:
        # Torch is imported first, so that its OpenMP runtime is there to be shared.
        from ostro import _native
    except ImportError as error:
        return None, f"the native module did not load ({error}); reinstall with a C++17 compiler"
    wanted = os.environ.get("OSTRO_ISA")
    if wanted and not _native.choose_packed(wanted):
        raise ConfigError(
            f"OSTRO_ISA={wanted} names no instruction set that this machine runs; there are "
            f"{', '.join(_native.packed_choices())}.",
            param="OSTRO_ISA",
        )
    return _native, f"{_native.instruction_set()}, threads: {_native.pool_name()}"


native: Any
native, reason = _load()

NATIVE_DTYPES: dict[torch.dtype, Any] = (
    {} if native is None else {torch.float32: native.DType.f32, torch.bfloat16: native.DType.bf16}
)

# How the KV cache may hold numbers, as native code calls it.
KV_TYPES: dict[torch.dtype, int] = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int8: 3}

OPS = ("rms_norm", "silu_mul", "rope_write", "paged_attention", "pick_tokens")


def use_native(x: torch.Tensor, *others: torch.Tensor) -> bool:
    """Whether native code may take `x`: on the CPU, float32 or bfloat16, and no gradient is recorded.

    others: what it reads and writes by address as x's type; another type is the reference's business.
    """
    return (
        x.is_cpu
        and x.dtype in NATIVE_DTYPES
        and not torch.is_grad_enabled()
        and all(other.dtype == x.dtype for other in others)
    )


def describe() -> list[dict[str, str]]:
    """One entry an op: what runs on this machine's CPU and why, as `ostro doctor` prints it."""
    chosen = "native C++" if native is not None else "PyTorch reference"
    rows = [{"op": op, "cpu": chosen, "why": reason} for op in OPS]
    rows.append(_describe_linear())
    rows.append(_describe_packed())
    return rows


def _describe_linear() -> dict[str, str]:
    # Imported here: the op's module is a neighbour that itself imports nothing of this one, and may grow to.
    from ostro.kernels.linear import onednn

    if onednn is None:
        return {"op": "linear", "cpu": "PyTorch default", "why": "this PyTorch has no direct oneDNN operator"}
    return {"op": "linear", "cpu": "oneDNN, called directly", "why": "faster than PyTorch's choice for float32"}


def _describe_packed() -> dict[str, str]:
    if native is None:
        return {"op": "packed_linear", "cpu": "PyTorch reference (very slow)", "why": reason}
    choices = native.packed_choices()
    why = "OSTRO_ISA" if os.environ.get("OSTRO_ISA") else f"the best of {', '.join(choices)}, which this machine runs"
    return {"op": "packed_linear", "cpu": f"native C++, {native.packed_kernels()}", "why": why}


def summary() -> str:
    """One line for logs and model cards."""
    return f"native C++ ({reason})" if native is not None else f"PyTorch reference ({reason})"
