"""A machine without a compiler is told so, by `make` and by an installation without it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment whose programs are those of a system that compiles nothing."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "bash", "make", "python3", "cmake", "uname", "sed", "expr", "cat", "touch", "ninja"):
        found = shutil.which(name)
        if found is not None:
            (programs / name).symlink_to(found)
    return {"PATH": str(programs), "HOME": str(tmp_path)}


def test_make_says_so(bare: dict[str, str], tmp_path: Path) -> None:
    command = [
        "make",
        "-C",
        str(ROOT),
        f"PYTHON={sys.executable}",
        f"VENV={tmp_path / 'venv'}",
        str(tmp_path / "venv/bin/python"),
    ]
    done = subprocess.run(command, env=bare, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "error: there is no C++17 compiler; on Debian: apt-get install g++" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_an_installation_says_so(bare: dict[str, str], tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        if os.environ.get("CI"):
            pytest.fail("needs cmake; on Debian: apt-get install cmake")
        pytest.skip("needs cmake; on Debian: apt-get install cmake")
    # The generator is no matter here: it is asked for before any compiler is.
    generator = "Ninja" if (Path(bare["PATH"]) / "ninja").exists() else "Unix Makefiles"
    command = ["cmake", "-G", generator, "-S", str(ROOT), "-B", str(tmp_path / "build")]
    done = subprocess.run(command, env=bare, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "Ostro's kernels need a C++17 compiler, and there is none." in " ".join(done.stderr.split())
