"""The kernels for ARM: compiled by a cross compiler and run under emulation against the portable ones."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

from kernels.compilers import ROOT, flags, tool


@pytest.mark.skipif(platform.machine() == "aarch64", reason="this machine runs the kernels itself")
def test_neon_tiles_equal_the_portable_ones(tmp_path: Path) -> None:
    compiler = tool("aarch64-linux-gnu-g++")
    emulator = tool("qemu-aarch64", "qemu-aarch64-static")
    sources = [ROOT / "csrc" / "packed_neon.cpp", ROOT / "csrc" / "packed_portable.cpp"]
    sources.append(ROOT / "tests" / "kernels" / "native" / "compare_kernels.cpp")
    defined = ["-march=armv8.2-a+dotprod", "-DOSTRO_ARM_KERNELS", "-DOSTRO_TESTED=kPackedNeonDot", "-static"]
    program = tmp_path / "compare"
    subprocess.run([compiler, *flags(), *defined, *sources, "-o", program], check=True, timeout=200)
    done = subprocess.run([emulator, "-cpu", "max", program], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tiles, largest difference" in done.stdout
