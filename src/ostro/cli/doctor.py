"""`ostro doctor`: what this machine is, what Ostro will use of it, and what stands in the way."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import typer

PACKAGES = ("torch", "numpy", "mistral-common", "tokenizers", "safetensors", "fastapi", "uvicorn", "msgspec", "typer")

# What decides which native code path is taken, and how fast it is.
CPU_FEATURES = (
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8",
    "amx_bf16", "asimd", "asimddp", "i8mm", "bf16",
)  # fmt: skip
LOW_MEMORY = 4 * 10**9
LOW_DISK = 5 * 10**9


def register(app: typer.Typer) -> None:
    """Add the command to the root."""
    app.command("doctor", epilog="Example: ostro doctor --json")(doctor)


def doctor(as_json: bool = typer.Option(False, "--json", help="Print one JSON object.")) -> None:
    """Say what this machine has and what to mend.

    Versions, processor features, memory, devices, which kernels run and why, models, and the problems found.
    """
    report: dict[str, Any] = {"versions": _versions(), "machine": _machine(), "models": _models()}
    try:
        report |= {"torch": _torch(), "kernels": _kernels()}
    except (ImportError, OSError) as error:  # a broken installation is what a doctor is called for
        report |= {"torch": {"error": str(error)}, "kernels": {"native": False, "why": str(error), "ops": []}}
    report["problems"] = find_problems(report)
    if as_json:
        typer.echo(json.dumps(report))
    else:
        _print(report)


def _versions() -> dict[str, str]:
    from ostro import __version__

    versions = {"ostro": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _machine() -> dict[str, Any]:
    import psutil

    from ostro.core.cpus import allowed_cpus, plan_cpus

    model, features = read_cpuinfo(Path("/proc/cpuinfo"))
    memory = psutil.virtual_memory()
    affinity = len(allowed_cpus())
    plan = plan_cpus(allowed_cpus())
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "cpu": model or platform.processor() or "unknown",
        "features": [feature for feature in CPU_FEATURES if feature in features],
        "cores": psutil.cpu_count(logical=False) or affinity,
        "usable_threads": affinity,
        "compute_cpus": list(plan.compute),
        "compute_cpus_reason": plan.reason,
        "memory": memory.total,
        "memory_available": memory.available,
    }


def read_cpuinfo(path: Path) -> tuple[str, frozenset[str]]:
    """The processor's name and features, of Linux on x86 ("flags") or ARM ("Features"); empty elsewhere."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "", frozenset()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return fields.get("model name", ""), frozenset((fields.get("flags") or fields.get("Features") or "").split())


def _torch() -> dict[str, Any]:
    import torch

    cuda = [
        {
            "name": torch.cuda.get_device_name(index),
            "memory": torch.cuda.get_device_properties(index).total_memory,
            "capability": ".".join(map(str, torch.cuda.get_device_capability(index))),
        }
        for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    ]
    return {
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": cuda,
        "cuda_build": torch.version.cuda or "none: this is a CPU build of PyTorch",
        "auto_device": "cuda" if cuda else "cpu",
    }


def _kernels() -> dict[str, Any]:
    from ostro.kernels import dispatch

    return {"native": dispatch.native is not None, "why": dispatch.reason, "ops": dispatch.describe()}


def _models() -> dict[str, Any]:
    from ostro.core.paths import embedded_models, models_folder, ostro_home
    from ostro.weights.manifest import is_complete, pulled_models

    disk = next(path for path in (models_folder(), *models_folder().parents) if path.exists())
    return {
        "home": str(ostro_home()),
        "home_writable": os.access(disk, os.W_OK),
        "disk_free": shutil.disk_usage(disk).free,
        "embedded": {name: str(path) for name, path in embedded_models().items()},
        "pulled": [
            {"repo": manifest.repo, "path": str(folder), "complete": is_complete(folder, manifest)}
            for folder, manifest in pulled_models()
        ],
    }


def find_problems(report: dict[str, Any]) -> list[dict[str, str]]:
    """What stands in the way, each with what to do about it."""
    machine, models, torch = report["machine"], report["models"], report["torch"]
    found: list[tuple[bool, str, str]] = [
        (
            "error" in torch,
            f"PyTorch does not load: {torch.get('error')}.",
            "Nothing runs without it. Install it again: pip install --force-reinstall torch",
        ),
        (
            "error" not in torch and not report["kernels"]["native"],
            f"Native kernels are not in use: {report['kernels']['why']}.",
            "Answers are the same, only slower. Reinstall with a C++17 compiler: pip install --force-reinstall ostro",
        ),
        (
            machine["memory_available"] < LOW_MEMORY,
            f"Only {_gigabytes(machine['memory_available'])} of memory are free.",
            "Close other programs, or serve a smaller model or a shorter --max-model-len.",
        ),
        (
            torch.get("threads", 0) > machine["usable_threads"],
            f"PyTorch uses {torch.get('threads')} threads on {machine['usable_threads']} usable ones.",
            f"Set OMP_NUM_THREADS={machine['usable_threads']}.",
        ),
        (
            not models["home_writable"],
            f"{models['home']} cannot be written.",
            "Set OSTRO_HOME to a folder of yours; `ostro pull` needs it.",
        ),
        (
            models["disk_free"] < LOW_DISK,
            f"Only {_gigabytes(models['disk_free'])} are free on the disk of {models['home']}.",
            "Free some, or set OSTRO_HOME to another disk, before pulling a model.",
        ),
        (
            not models["embedded"],
            "The embedded model is missing.",
            "Reinstall ostro: a complete installation carries it.",
        ),
    ]
    found += [
        (not pulled["complete"], f"{pulled['repo']} lacks files.", f"Fetch them: ostro pull {pulled['repo']}")
        for pulled in models["pulled"]
    ]
    missing = [name for name, version in report["versions"].items() if version == "not installed"]
    found.append((bool(missing), f"Not installed: {', '.join(missing)}.", "Reinstall ostro with its dependencies."))
    return [{"problem": problem, "advice": advice} for here, problem, advice in found if here]


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _torch_rows(torch: dict[str, Any]) -> list[tuple[str, str]]:
    if "error" in torch:
        return [("torch", f"does not load: {torch['error']}")]
    devices = "".join(f", {gpu['name']} with {_gigabytes(gpu['memory'])}" for gpu in torch["cuda"])
    return [
        ("torch", f"{torch['threads']} threads, {torch['cpu_capability']}; CUDA: {torch['cuda_build']}"),
        ("devices", f"cpu{devices}; --device auto takes {torch['auto_device']}"),
    ]


def _print(report: dict[str, Any]) -> None:
    machine, torch, models = report["machine"], report["torch"], report["models"]
    rows = [
        ("versions", ", ".join(f"{name} {version}" for name, version in report["versions"].items())),
        ("system", f"{machine['system']} on {machine['architecture']}"),
        ("cpu", f"{machine['cpu']}; {machine['cores']} cores, {machine['usable_threads']} usable threads"),
        ("compute threads", f"{len(machine['compute_cpus'])}: {machine['compute_cpus_reason']}"),
        ("features", " ".join(machine["features"]) or "none of note"),
        ("memory", f"{_gigabytes(machine['memory'])}, {_gigabytes(machine['memory_available'])} free"),
        *_torch_rows(torch),
        *((f"op {op['op']}", f"{op['cpu']} ({op['why']})") for op in report["kernels"]["ops"]),
        ("home", f"{models['home']}, {_gigabytes(models['disk_free'])} free on its disk"),
        ("embedded", ", ".join(models["embedded"]) or "none"),
        ("pulled", ", ".join(pulled["repo"] for pulled in models["pulled"]) or "none"),
    ]
    for label, text in rows:
        typer.echo(f"{label + ':':<20}{text}")
    for row in report["problems"]:
        typer.echo(f"\nproblem: {row['problem']}\n  what to do: {row['advice']}")
    if not report["problems"]:
        typer.echo("\nNo problems found.")
