"""The command line: one file a command, the place where the parts are wired together.

Every command module exposes `register(app)` and is light at import; what is heavy is imported inside the command's
own function, so that `ostro --help` answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import typer

from ostro import __version__
from ostro.core.errors import OstroError

COMMANDS = ("serve", "chat", "run", "pull", "models", "doctor", "bench", "quantize", "train", "gateway", "keys")

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130

_EPILOG = "Example: ostro serve   (serves the embedded model; then open http://127.0.0.1:8000)"


def build_app() -> typer.Typer:
    """The command tree, in the order of `COMMANDS`."""
    app = typer.Typer(
        name="ostro",
        help="Run, adapt and govern Mistral-family models on the hardware you have.",
        epilog=_EPILOG,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )

    @app.callback(invoke_without_command=True)
    def root(
        context: typer.Context,
        _version: bool = typer.Option(
            False, "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ) -> None:
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())
            raise typer.Exit(WRONG_USAGE)

    for name in COMMANDS:
        importlib.import_module(f"ostro.cli.{name}").register(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ostro {__version__}")
        raise typer.Exit


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `ostro`: exits with 0, 1 (failed), 2 (wrong usage) or 130 (interrupted)."""
    sys.exit(run_app(build_app(), argv, program="ostro"))


def run_app(app: typer.Typer, argv: Sequence[str] | None, *, program: str) -> int:
    """Run a command and turn its outcome into an exit code; an error is one line on stderr.

    `OSTRO_DEBUG=1` prints the traceback before that line.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        outcome = app(args=arguments, prog_name=program, standalone_mode=False)
    except OstroError as error:
        return _failed(error.message)
    except typer.TyperException as error:
        return _wrong_usage(error, program)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except OSError as error:
        return _failed(f"{error}. Set OSTRO_DEBUG=1 to see where it happened.")
    except Exception as error:  # noqa: BLE001 - the last stop: users get a line, not a traceback
        return _failed(f"unexpected {type(error).__name__}: {error}. Set OSTRO_DEBUG=1 to see where it happened.")
    code = outcome if isinstance(outcome, int) else 0
    return _interrupted() if code == INTERRUPTED else code


def _failed(message: str) -> int:
    _print_debug()
    line = " ".join(message.split())
    print(f"error: {line}", file=sys.stderr)  # noqa: T201 - stderr is this function's job
    return FAILED


def _wrong_usage(error: typer.TyperException, program: str) -> int:
    _print_debug()
    context = getattr(error, "ctx", None)
    path = program if context is None else context.command_path
    message = " ".join(error.format_message().split())
    print(f"error: {message} See '{path} --help'.", file=sys.stderr)  # noqa: T201 - typer is not imported for this
    return error.exit_code


def _interrupted() -> int:
    print("interrupted", file=sys.stderr)  # noqa: T201 - typer is not imported for this
    return INTERRUPTED


def _print_debug() -> None:
    if os.environ.get("OSTRO_DEBUG") == "1":
        traceback.print_exc()
