"""Compilers and emulators for kernels that are tested outside of the module."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tool(*names: str) -> str:
    """The first of these programs that is there; without one the test is skipped, and fails under CI."""
    for name in names:
        path = shutil.which(name)
        if path is not None:
            return path
    reason = f"needs {names[0]}; on Debian: apt-get install g++ g++-aarch64-linux-gnu qemu-user"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def flags() -> list[str]:
    """As CMakeLists.txt has them for kernels, and warnings are errors."""
    return ["-std=c++17", "-O3", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'csrc'}"]
