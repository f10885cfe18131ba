"""`mistral-cli`: the published name of Ostro's own commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from ostro.cli import run_app
from ostro.cli.pull import run_pull


def build_app() -> typer.Typer:
    """The command tree of `mistral-cli`."""
    app = typer.Typer(name="mistral-cli", add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

    @app.callback()
    def root() -> None:
        """Published commands of this system; `ostro --help` shows all of them under their own names."""

    app.command("download", epilog="Example: mistral-cli download --model mistral-3-base --output ./models")(download)
    return app


def download(
    model: str = typer.Option(..., "--model", help="A short name or owner/name of the hub."),
    output: Path | None = typer.Option(
        None, "--output", help="Put the model into a folder of its name in this one, not under OSTRO_HOME."
    ),
    revision: str | None = typer.Option(None, "--revision", help="A branch, tag or commit."),
    mirror: list[str] = typer.Option([], "--mirror", help="Base URL of a mirror, repeatable."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as one JSON object."),
) -> None:
    """Fetch a checkpoint: the same as `ostro pull MODEL`."""
    run_pull(model, output, revision, tuple(mirror), as_json=as_json)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `mistral-cli`; exit codes as those of `ostro`."""
    sys.exit(run_app(build_app(), argv, program="mistral-cli"))
