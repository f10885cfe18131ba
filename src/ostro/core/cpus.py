"""Which processors compute, and which are left for the rest. Torch-free; knows Linux, and says little elsewhere.

Compute threads wait for each other many times a token, so one that shares its core, or runs on a slow one, or is taken
off by a quota, holds up all. There is one thread a core, on the fast cores of a hybrid processor, and never more than
a container's quota; the process that answers HTTP keeps to the other hardware threads, where there are some.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

SYS = Path("/sys")
# The processors that a process may use, told to its children before it confines itself.
VARIABLE = "OSTRO_CPUS"
# Cores below this share of the best one's capacity are the slow ones of a hybrid processor.
SLOW = 0.7


@dataclass(frozen=True)
class CpuPlan:
    """compute: logical processors, one for each thread that computes. others: those left over, which may be none.

    confined: whether compute threads should be kept to theirs; not where a quota, which is of time, not of places,
    lets only some of them run.
    """

    compute: tuple[int, ...]
    others: tuple[int, ...]
    confined: bool
    reason: str


def allowed_cpus() -> tuple[int, ...]:
    """What this process, or the one that started it, was given. What it was told and the machine does not have, or what
    is no list, counts for nothing."""
    given = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    try:
        told = set(parse_list(os.environ.get(VARIABLE, "")))
    except ValueError:
        told = set()
    return tuple(sorted(told & set(range(os.cpu_count() or 1)))) or tuple(given)


def plan_cpus(allowed: Collection[int], sys: Path | None = None) -> CpuPlan:
    """The plan for these processors, by what the kernel tells of them under `sys`."""
    root = SYS if sys is None else sys
    firsts: dict[tuple[int, ...], int] = {}
    for cpu in sorted(allowed):
        siblings = _list_in(root / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or (cpu,)
        firsts.setdefault(siblings, cpu)
    cores = sorted(firsts.values())
    reasons = [f"one for each of {len(cores)} cores"]
    fast = _fast(cores, root)
    if len(fast) < len(cores):
        reasons = [f"one for each of the {len(fast)} fast cores of {len(cores)}"]
    quota = _quota(root)
    limited = quota is not None and quota < len(fast)
    if limited:
        assert quota is not None
        fast = fast[:quota]
        reasons.append(f"a quota of {quota} processors")
    others = tuple(sorted(set(allowed) - set(fast)))
    return CpuPlan(tuple(fast), others, bool(others) and not limited, ", ".join(reasons))


def confine(cpus: Iterable[int]) -> None:
    """Keep this process, and threads that it starts from now on, to these processors, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(cpus))


def confine_to_others() -> None:
    """For a process that does not compute: leave the cores to those that it starts and that do."""
    allowed = allowed_cpus()
    plan = plan_cpus(allowed)
    if plan.confined:
        os.environ[VARIABLE] = ",".join(map(str, allowed))
        confine(plan.others)


def parse_list(text: str) -> list[int]:
    """A kernel's list: "0-3,8" is 0, 1, 2, 3 and 8."""
    cpus: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus


def _list_in(path: Path) -> tuple[int, ...]:
    try:
        return tuple(parse_list(path.read_text()))
    except (OSError, ValueError):
        return ()


def _fast(cores: list[int], root: Path) -> list[int]:
    performance = set(_list_in(root / "devices/cpu_core/cpus"))  # Intel's hybrid processors
    if performance:
        return [core for core in cores if core in performance] or cores
    capacity = {core: _number(root / f"devices/system/cpu/cpu{core}/cpu_capacity") for core in cores}  # ARM's
    best = max(capacity.values(), default=0.0)
    return [core for core in cores if capacity[core] >= SLOW * best]


def _quota(root: Path) -> int | None:
    """Whole processors of a container's quota, rounded up; None where there is none."""
    try:
        quota, period = (root / "fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        group = root / "fs/cgroup/cpu"
        quota, period = str(_number(group / "cpu.cfs_quota_us")), str(_number(group / "cpu.cfs_period_us"))
    try:
        share = float(quota) / float(period)
    except (ValueError, ZeroDivisionError):  # "max", or no such file
        return None
    return max(1, math.ceil(share)) if share > 0 else None


def _number(path: Path) -> float:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return 0.0
