"""The import picture of docs/architecture.md, held as contracts and looked at in live processes."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import ostro

ROOT = Path(__file__).resolve().parents[2]
TORCH_FREE = ("core", "link", "routing", "web", "server", "observability", "storage", "client")
# Light enough for a command line that only asks a question.
TORCH_FREE_MODULES = ("ostro.cli", "ostro.weights.resolve", "ostro.weights.hub.pull", "mistral_sdk.cli")


def test_the_contracts_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kept, 0 broken" in done.stdout


def modules_of(package: str) -> list[str]:
    module = importlib.import_module(f"ostro.{package}")
    found = [module.__name__]
    for path in getattr(module, "__path__", ()):
        found += [info.name for info in pkgutil.walk_packages([path], f"{module.__name__}.")]
    return found


@pytest.mark.parametrize("package", TORCH_FREE)
def test_every_module_of_a_torch_free_package_loads_without_torch(package: str) -> None:
    assert_torch_free(modules_of(package))


@pytest.mark.parametrize("module", TORCH_FREE_MODULES)
def test_light_modules_load_without_torch(module: str) -> None:
    assert_torch_free([module])


def assert_torch_free(modules: list[str]) -> None:
    modules = [name for name in modules if not name.endswith("__main__")]
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {modules}]; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stdout + done.stderr


def test_a_client_starts_in_half_a_second() -> None:
    # Processor time, so that a busy machine does not fail the test; it counts from the start of the process.
    code = "import time; from ostro import Client; print(time.process_time())"
    taken = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    assert min(taken) < 0.5


def test_the_public_names_are_all_there() -> None:
    assert sorted(ostro.__all__) == sorted(dir(ostro))
    for name in ostro.__all__:
        assert getattr(ostro, name) is not None
    with pytest.raises(AttributeError, match="Nothing"):
        _ = ostro.Nothing
    published = importlib.import_module("mistral_sdk")
    for name in published.__all__:
        assert getattr(published, name) is not None


def test_nothing_ever_loads_a_pickle() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Call):
                names = [ast.unparse(node.func)]
            wrong = {"pickle", "marshal", "shelve", "dill", "joblib", "torch.load", "numpy.load", "np.load"} & set(
                names
            )
            assert not wrong, f"{path}:{getattr(node, 'lineno', 0)} uses {wrong}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", sorted((ROOT / "src").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
