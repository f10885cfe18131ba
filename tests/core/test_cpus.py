"""Which processors compute: by the kernel's files of several machines, and in real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ostro.core import cpus
from ostro.core.cpus import parse_list, plan_cpus


def machine(root: Path, siblings: dict[int, str], **files: str) -> Path:
    for cpu, listed in siblings.items():
        folder = root / f"devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{listed}\n")
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def test_hyperthreads_share_a_core(tmp_path: Path) -> None:
    root = machine(tmp_path, {0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"})
    plan = plan_cpus([0, 1, 4, 5], root)
    assert (plan.compute, plan.others, plan.confined) == ((0, 1), (4, 5), True)
    assert plan_cpus([1, 4, 5], root).compute == (1, 4)  # what was left of the machine by others


def test_no_hyperthreads_nothing_left_over(tmp_path: Path) -> None:
    plan = plan_cpus([0, 1], machine(tmp_path, {0: "0", 1: "1"}))
    assert (plan.compute, plan.others, plan.confined) == ((0, 1), (), False)


def test_hybrid_processors_compute_on_fast_cores(tmp_path: Path) -> None:
    siblings = {0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3", 4: "4", 5: "5"}
    intel = machine(tmp_path / "intel", siblings, **{"devices/cpu_core/cpus": "0-3"})
    plan = plan_cpus(range(6), intel)
    assert (plan.compute, plan.others) == ((0, 2), (1, 3, 4, 5))
    assert "2 fast cores of 4" in plan.reason
    capacities = {f"devices/system/cpu/cpu{cpu}/cpu_capacity": str(446 if cpu < 4 else 1024) for cpu in range(8)}
    arm = machine(tmp_path / "arm", {cpu: str(cpu) for cpu in range(8)}, **capacities)
    assert plan_cpus(range(8), arm).compute == (4, 5, 6, 7)
    # Only slow ones are given: they compute.
    assert plan_cpus([4, 5], intel).compute == (4, 5)


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({"fs/cgroup/cpu.max": "250000 100000"}, 3),
        ({"fs/cgroup/cpu.max": "50000 100000"}, 1),
        ({"fs/cgroup/cpu.max": "max 100000"}, 8),
        ({"fs/cgroup/cpu.max": "nonsense"}, 8),
        ({"fs/cgroup/cpu/cpu.cfs_quota_us": "200000", "fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 2),
        ({"fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 8),
        ({}, 8),
    ],
)
def test_a_containers_quota_limits_threads_but_not_places(tmp_path: Path, files: dict[str, str], count: int) -> None:
    plan = plan_cpus(range(8), machine(tmp_path, {cpu: str(cpu) for cpu in range(8)}, **files))
    assert len(plan.compute) == count
    assert not plan.confined


def test_a_kernel_that_tells_nothing(tmp_path: Path) -> None:
    assert plan_cpus([0, 1, 2], tmp_path).compute == (0, 1, 2)


@pytest.mark.parametrize(("text", "expected"), [("0-3,8\n", [0, 1, 2, 3, 8]), ("", []), ("5", [5])])
def test_lists(text: str, expected: list[int]) -> None:
    assert parse_list(text) == expected


@pytest.mark.parametrize("told", ["x", "3-", "99999", ",", "1-x"])
def test_what_is_told_and_cannot_be_counts_for_nothing(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cpus.VARIABLE, raising=False)
    given = cpus.allowed_cpus()
    monkeypatch.setenv(cpus.VARIABLE, told)
    assert cpus.allowed_cpus() == given


PROBE = """
import json, os, sys
from pathlib import Path
from ostro.core import cpus
cpus.SYS = Path(sys.argv[1])
if sys.argv[2] == "server":
    cpus.confine_to_others()
else:
    from ostro.core.options import EngineOptions
    from ostro.engine.process import settle
    settle(EngineOptions(model="x", **json.loads(sys.argv[3])))
import subprocess
child = subprocess.run([sys.executable, "-c", "import os; print(sorted(os.sched_getaffinity(0)))"], capture_output=True)
print(json.dumps({"mine": sorted(os.sched_getaffinity(0)), "told": os.environ.get(cpus.VARIABLE),
                  "child": json.loads(child.stdout)}))
"""


def run(root: Path, *arguments: str, **environment: str) -> dict[str, object]:
    command = [sys.executable, "-c", PROBE, str(root), *arguments]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    values: dict[str, object] = json.loads(done.stdout)
    return values


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_processes_keep_to_their_processors(tmp_path: Path) -> None:
    """Two processors that this machine has, told to be threads of one core."""
    first, second = sorted(os.sched_getaffinity(0))[:2]
    both = f"{first},{second}"
    root = machine(tmp_path, {first: both, second: both})
    given = {cpus.VARIABLE: both}
    server = run(root, "server", **given)
    assert server == {"mine": [second], "told": both, "child": [second]}
    assert run(root, "engine", "{}", **given)["mine"] == [first]
    # Who says how many threads, or that nothing is to be pinned, gets back what the server was given.
    for options in ({"threads": 1}, {"pin": False}, {"device": "cuda"}):
        assert run(root, "engine", json.dumps(options), **given)["mine"] == [first, second]
