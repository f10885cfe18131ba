"""`ostro doctor`: what it reports, and that a problem is found with its remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ostro import __version__, cli
from ostro.cli.doctor import find_problems, read_cpuinfo


@pytest.fixture
def healthy() -> dict[str, Any]:
    return {
        "versions": {"torch": "2.13.0"},
        "machine": {"memory_available": 16 * 10**9, "usable_threads": 4},
        "torch": {"threads": 4},
        "kernels": {"native": True, "why": "avx2"},
        "models": {
            "home": "/home/a/.ostro",
            "home_writable": True,
            "disk_free": 10**12,
            "embedded": {"ostro-nano": "/x"},
            "pulled": [],
        },
    }


def test_the_report_is_whole(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSTRO_HOME", str(tmp_path / "home"))
    assert cli.run_app(cli.build_app(), ["doctor", "--json"], program="ostro") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["versions"]["ostro"] == __version__
    assert report["machine"]["usable_threads"] >= 1
    assert {op["op"] for op in report["kernels"]["ops"]} >= {"rms_norm", "paged_attention", "linear"}
    assert report["models"]["home"] == str(tmp_path / "home")
    assert not (tmp_path / "home").exists()
    assert cli.run_app(cli.build_app(), ["doctor"], program="ostro") == 0
    shown = capsys.readouterr().out
    assert "op rms_norm:" in shown
    assert "problem" in shown.lower()


def test_a_healthy_machine_has_no_problems(healthy: dict[str, Any]) -> None:
    assert find_problems(healthy) == []


@pytest.mark.parametrize(
    ("part", "change", "advice"),
    [
        ("kernels", {"native": False, "why": "no compiler"}, "Reinstall with a C++17 compiler"),
        ("machine", {"memory_available": 10**9}, "smaller model"),
        ("torch", {"threads": 8}, "OMP_NUM_THREADS=4"),
        ("torch", {"error": "libgomp is missing"}, "Install it again"),
        ("models", {"home_writable": False}, "Set OSTRO_HOME"),
        ("models", {"disk_free": 10**9}, "before pulling"),
        ("models", {"embedded": {}}, "Reinstall ostro"),
        ("models", {"pulled": [{"repo": "a/b", "complete": False}]}, "ostro pull a/b"),
        ("versions", {"numpy": "not installed"}, "with its dependencies"),
    ],
)
def test_each_problem_comes_with_what_to_do(
    healthy: dict[str, Any], part: str, change: dict[str, Any], advice: str
) -> None:
    healthy[part] |= change
    problems = find_problems(healthy)
    assert len(problems) == 1
    assert advice in problems[0]["advice"]


def test_cpuinfo_of_x86_and_arm(tmp_path: Path) -> None:
    x86, arm = tmp_path / "x86", tmp_path / "arm"
    x86.write_text("processor\t: 0\nmodel name\t: A chip\nflags\t\t: fpu avx avx2\n")
    arm.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\n")
    assert read_cpuinfo(x86) == ("A chip", frozenset({"fpu", "avx", "avx2"}))
    assert read_cpuinfo(arm) == ("", frozenset({"fp", "asimd", "asimddp"}))
    assert read_cpuinfo(tmp_path / "none") == ("", frozenset())
