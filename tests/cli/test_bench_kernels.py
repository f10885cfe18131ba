"""`ostro bench kernels` measures each kernel beside the machine's limits, and `ostro doctor` says which run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ostro.kernels.dispatch import native


def ostro(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ostro", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)


def test_each_kernel_stands_beside_its_roofline() -> None:
    done = ostro("bench", "kernels", "--rounds", "1", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["isa"] == native.packed_kernels()
    assert report["read_bytes_per_s"] > 1e8
    assert {row["kernel"] for row in report["kernels"]} == {
        "packed_linear",
        "gated",
        "paged_attention",
        "chunk_attention",
        "rms_norm",
        "rope_write",
        "pick_tokens",
    }
    assert report["float_ops_per_s"] > 1e8
    for row in report["kernels"]:
        assert row["seconds"] > 0
        assert row["bytes"] > 0
        assert row["share_of_roofline"] > 0
        # What reads from memory is not far above what the same run found to be possible; a batch may lie in a cache.
        if row["kernel"] in ("packed_linear", "gated", "paged_attention"):
            assert row["share_of_roofline"] < 4


def test_without_native_code_it_says_so() -> None:
    done = ostro("bench", "kernels", OSTRO_KERNELS="reference")
    assert done.returncode == 1
    assert "no native module" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("isa", native.packed_choices() if native else [])
def test_the_doctor_says_which_kernels_run_and_why(isa: str) -> None:
    report = json.loads(ostro("doctor", "--json", OSTRO_ISA=isa).stdout)
    rows = [row for row in report["kernels"]["ops"] if row["op"] in ("packed_linear", "paged_attention")]
    assert len(rows) == 2
    for row in rows:
        assert isa in row["cpu"]
        assert row["why"] == "OSTRO_ISA"


def test_an_unknown_instruction_set_is_told_in_a_line() -> None:
    done = ostro("run", "ostro-nano", "hello", "--max-tokens", "2", OSTRO_ISA="mmx")
    assert done.returncode == 1
    assert "OSTRO_ISA=mmx" in done.stderr
    assert "Traceback" not in done.stderr
