"""The kernels for ARM: compiled by a cross compiler and run under emulation against the portable ones."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "aarch64-linux-gnu-"


def tool(*names: str) -> str:
    for name in names:
        path = shutil.which(name)
        if path is not None:
            return path
    reason = f"needs {names[0]}; on Debian: apt-get install g++-aarch64-linux-gnu qemu-user"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.mark.skipif(platform.machine() == "aarch64", reason="this machine runs the kernels itself")
def test_neon_tiles_equal_the_portable_ones(tmp_path: Path) -> None:
    compiler = tool(f"{PREFIX}g++")
    emulator = tool("qemu-aarch64", "qemu-aarch64-static")
    sources = [ROOT / "csrc" / "packed_neon.cpp", ROOT / "csrc" / "packed_portable.cpp"]
    sources.append(ROOT / "tests" / "kernels" / "native" / "compare_kernels.cpp")
    flags = ["-std=c++17", "-O3", "-march=armv8.2-a+dotprod", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    defined = ["-DOSTRO_ARM_KERNELS", "-DOSTRO_TESTED=kPackedNeonDot", f"-I{ROOT / 'csrc'}", "-static"]
    program = tmp_path / "compare"
    subprocess.run([compiler, *flags, *defined, *sources, "-o", program], check=True, timeout=200)
    done = subprocess.run([emulator, "-cpu", "max", program], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tiles, largest difference" in done.stdout
