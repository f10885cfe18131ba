"""The ground a newcomer stands on: make's targets, the pins, what continuous integration runs."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def dry_run(*arguments: str) -> str:
    """What make would run if everything were installed: files it would make are declared old."""
    old = [word for name in ("base", "test", "torch") for word in ("-o", f".venv/.{name}")]
    done = subprocess.run(["make", "-n", *old, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_serve_takes_a_port_and_a_model() -> None:
    assert ".venv/bin/ostro serve --port 8000" in " ".join(dry_run("serve").split())
    assert ".venv/bin/ostro serve mistral-nemo --port 9001" in dry_run("serve", "PORT=9001", "MODEL=mistral-nemo")


def test_check_runs_every_tool_and_test_leaves_the_slow_ones() -> None:
    ran = dry_run("check")
    for tool in ("ruff check .", "ruff format --check .", "mypy", "lint-imports"):
        assert f".venv/bin/{tool}" in ran
    assert '-m "not slow"' in dry_run("test")
    assert "-m slow" in dry_run("slow")


def test_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=30).stdout
    assert {f"make {target}" for target in phony[1].split()} <= {
        " ".join(row.split()[:2]) for row in shown.splitlines()
    }


def test_an_old_python_is_refused_by_name(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    arguments = ["make", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}", "serve"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert f"error: {old} is older than Python 3.11" in done.stderr


def test_ci_runs_both_targets() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[-2:] == ["make check", "make test"]
    assert "set -euo pipefail" in lines
    assert "export CI=1" in lines


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    tables = [project["build-system"]["requires"], project["project"]["dependencies"]]
    tables += project["project"]["optional-dependencies"].values()
    return [Requirement(line) for table in tables for line in table if not line.startswith("ostro")]


def test_everything_asked_for_is_pinned_within_its_range() -> None:
    pinned = pins()
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        assert requirement.specifier.contains(pinned[name]), f"{requirement} is pinned to {pinned[name]}"


def test_what_is_installed_needs_nothing_that_is_not_pinned() -> None:
    pinned = pins()
    todo, done = requirements(), set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name.startswith(("nvidia-", "cuda-", "triton")):  # a CUDA build of PyTorch pins these itself
            continue
        assert name in pinned, f"{requirement} is not in constraints.txt"
        if (name, *sorted(requirement.extras)) in done:
            continue
        done.add((name, *sorted(requirement.extras)))
        for line in installed_requirements(name):
            child = Requirement(line)
            extras = requirement.extras or {""}
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(child)


def installed_requirements(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:  # a build tool, in its own environment
        return []


def test_torch_is_pinned_without_a_local_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", pins()["torch"])
