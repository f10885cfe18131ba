"""Code for several levels of x86-64: each runs where the processor can do it, and nowhere else."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

from kernels.compilers import ROOT, flags, tool

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 has these levels")
NATIVE = ROOT / "tests" / "kernels" / "native"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("levels") / "check"
    sources = [ROOT / "csrc" / f"{name}.cpp" for name in ("norm", "activation", "sampling", "parallel")]
    command = [tool("g++"), *flags(), "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", *sources]
    subprocess.run(
        [*command, NATIVE / "check_elementwise.cpp", "-pthread", "-ldl", "-o", path], check=True, timeout=200
    )
    return path


def test_on_this_processor(program: Path) -> None:
    done = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("cpu", "level"),
    [
        ("Nehalem", "default"),
        ("Haswell", "x86-64-v3"),
        # The name of a model says nothing: some are sold, and some virtual machines run, without its instructions.
        ("Haswell,-avx2,-avx,-fma,-f16c,-bmi1,-bmi2", "default"),
        ("EPYC", "x86-64-v3"),
    ],
)
def test_on_others(program: Path, cpu: str, level: str) -> None:
    emulator = tool("qemu-x86_64", "qemu-x86_64-static")
    done = subprocess.run([emulator, "-cpu", cpu, program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, f"{level}: 0 wrong\n"), done.stderr


def test_avx_vnni_tiles_equal_the_portable_ones(tmp_path: Path) -> None:
    """Where AVX-VNNI is missing its one instruction has a twin in AVX-512 VNNI, so that the tiles still run."""
    cpu = Path("/proc/cpuinfo").read_text()
    product = ["-mavxvnni"]
    if " avx_vnni" not in cpu:
        if not all(f" {feature}" in cpu for feature in ("avx512_vnni", "avx512vl")):
            pytest.skip("this processor has neither AVX-VNNI nor AVX-512 VNNI")
        product = ["-D_mm256_dpbusd_avx_epi32=_mm256_dpbusd_epi32", "-mavx512vnni", "-mavx512vl"]
    instructions = ["-mavx2", "-mfma", "-mf16c", *product]
    sources = [ROOT / "csrc" / "packed_avxvnni.cpp", ROOT / "csrc" / "packed_portable.cpp"]
    defined = ["-DOSTRO_X86_KERNELS", "-DOSTRO_TESTED=kPackedAvxVnni", "-DOSTRO_ATTENTION=kAttentionAvx2"]
    path = tmp_path / "compare"
    command = [tool("g++"), *flags(), *instructions, *defined, *sources, NATIVE / "compare_kernels.cpp", "-o", path]
    subprocess.run(command, check=True, timeout=200)
    done = subprocess.run([path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tiles, largest difference" in done.stdout
