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
    return _native, f"{_native.packed_kernels()}, threads: {_native.pool_name()}"


native: Any
native, reason = _load()

NATIVE_DTYPES: dict[torch.dtype, Any] = (
    {} if native is None else {torch.float32: native.DType.f32, torch.bfloat16: native.DType.bf16}
)

# How the KV cache may hold numbers, as native code calls it.
KV_TYPES: dict[torch.dtype, int] = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int8: 3}

# Compiled for several levels of an architecture, of which the loader picks one.
LEVELLED = ("rms_norm", "silu_mul", "rope_write", "pick_tokens")
# Written for single instruction sets, of which `OSTRO_ISA` picks one.
CHOSEN = ("packed_linear", "paged_attention")
OPS = (*LEVELLED, *CHOSEN)


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
    if native is None:
        return [*({"op": op, "cpu": "PyTorch reference (slow)", "why": reason} for op in OPS), _describe_linear()]
    level = f"native C++, {native.instruction_set()}"
    rows = [{"op": op, "cpu": level, "why": "the highest level that this processor can do"} for op in LEVELLED]
    choices = native.packed_choices()
    why = "OSTRO_ISA" if os.environ.get("OSTRO_ISA") else f"the best of {', '.join(choices)}, which this machine runs"
    kernels = f"native C++, {native.packed_kernels()}"
    rows += [{"op": op, "cpu": kernels, "why": why} for op in CHOSEN]
    step = "one native call a step where all layers are quantised"
    rows.append({"op": "decoder_step", "cpu": step, "why": "no way through Python between its operations"})
    return [*rows, _describe_linear()]


def _describe_linear() -> dict[str, str]:
    # Imported here: the op's module is a neighbour that itself imports nothing of this one, and may grow to.
    from ostro.kernels.linear import onednn

    if onednn is None:
        return {"op": "linear", "cpu": "PyTorch default", "why": "this PyTorch has no direct oneDNN operator"}
    return {"op": "linear", "cpu": "oneDNN, called directly", "why": "faster than PyTorch's choice for float32"}


def summary() -> str:
    """One line for logs and model cards."""
    return f"native C++ ({reason})" if native is not None else f"PyTorch reference ({reason})"
