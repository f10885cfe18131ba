"""The root of the command line, mostly as the process a user starts."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest
import typer

from ostro import cli
from ostro.core.errors import ConfigError

COMMANDS = ["serve", "chat", "run", "pull", "models", "doctor", "bench", "train"]


def ostro(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ostro", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def seconds(*arguments: str) -> float:
    """The least of three starts in processor time, which on an idle machine is the time a user waits.

    Processor time, so that a busy machine does not fail the test.
    """
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


def test_help_is_quick_and_lists_the_commands_in_order() -> None:
    shown = ostro("--help")
    assert shown.returncode == 0
    listed = [line.split()[0] for line in shown.stdout.split("Commands:")[1].splitlines() if line.startswith("  ")]
    assert [name for name in listed if name in COMMANDS] == COMMANDS
    assert "Example:" in shown.stdout
    assert seconds("-m", "ostro", "--help") < 0.5


def test_import_is_quick() -> None:
    assert seconds("-c", "import ostro") < 0.3


@pytest.mark.parametrize("code", ["import ostro", "from ostro.cli import build_app; build_app()"])
def test_neither_import_nor_help_loads_what_is_heavy(code: str) -> None:
    heavy = "{'torch', 'numpy', 'fastapi', 'huggingface_hub', 'transformers', 'mistral_common'}"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print(sorted({heavy} & set(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    shown = ostro(command, "--help")
    assert shown.returncode == 0, shown.stderr
    assert f"Example: ostro {command}" in " ".join(shown.stdout.split())


def test_a_bare_call_shows_the_help_and_is_wrong_usage() -> None:
    shown = ostro()
    assert shown.returncode == 2
    assert "Commands:" in shown.stdout


def test_version() -> None:
    assert ostro("--version").stdout == f"ostro {cli.__version__}\n"


def test_an_unknown_command_is_wrong_usage_in_one_line() -> None:
    shown = ostro("fly")
    assert shown.returncode == 2
    assert shown.stderr == "error: No such command 'fly'. See 'ostro --help'.\n"


def failing(error: BaseException) -> typer.Typer:
    app = typer.Typer(add_completion=False)

    @app.command()
    def fail() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ConfigError("it is\nwrong"), 1, "error: it is wrong\n"),
        (FileNotFoundError(2, "No such file", "a"), 1, "error: [Errno 2] No such file: 'a'. Set OSTRO_DEBUG=1"),
        (ZeroDivisionError("odd"), 1, "error: unexpected ZeroDivisionError: odd. Set OSTRO_DEBUG=1"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (typer.Exit(3), 3, ""),
        (typer.BadParameter("no"), 2, "error: Invalid value: no"),
    ],
)
def test_exit_codes(error: BaseException, code: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_app(failing(error), [], program="ostro") == code
    shown = capsys.readouterr().err
    assert shown.startswith(told)
    assert "Traceback" not in shown


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OSTRO_DEBUG", "1")
    assert cli.run_app(failing(ConfigError("wrong")), [], program="ostro") == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith("error: wrong\n")
