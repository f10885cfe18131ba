"""`ostro pull`: a checkpoint from the hub, or the quickest mirror of it, to this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress

    from ostro.weights.hub.pull import PullResult
    from ostro.weights.hub.transfer import Progress


def register(app: typer.Typer) -> None:
    """Add the command to the root."""
    app.command("pull", epilog="Example: ostro pull mistral-7b-v0.3   then: ostro serve mistral-7b-v0.3")(pull)


def pull(
    name: str = typer.Argument(help="A short name (see `ostro models`) or owner/name of the hub."),
    output: Path | None = typer.Option(
        None, "--output", help="Put the model into a folder of its name in this one, not under OSTRO_HOME."
    ),
    revision: str | None = typer.Option(None, "--revision", help="A branch, tag or commit."),
    mirror: list[str] = typer.Option(
        [], "--mirror", help="Base URL of a mirror, repeatable; also OSTRO_MIRRORS, comma-separated."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the result as one JSON object."),
) -> None:
    """Fetch a checkpoint from the hub, verified.

    One weight format is fetched, and every file is checked against the digest the hub announces. HF_ENDPOINT is the
    hub, HF_TOKEN the token for gated models. Of the hub and the mirrors, the quickest to answer is used. Run it again
    after an interruption: it goes on from there.
    """
    run_pull(name, output, revision, tuple(mirror), as_json=as_json)


def run_pull(name: str, output: Path | None, revision: str | None, mirrors: tuple[str, ...], *, as_json: bool) -> None:
    """Pull and print; `mistral-cli download` is the same."""
    from ostro.weights.hub.pull import PullRequest, pull_model

    request = PullRequest(name=name, output=output, revision=revision, mirrors=mirrors)
    with terminal_progress() as progress:
        result = pull_model(request, progress)
    if as_json:
        typer.echo(json.dumps(_as_dict(name, result)))
    else:
        _print_result(name, output, result)


def _as_dict(name: str, result: PullResult) -> dict[str, object]:
    manifest = result.manifest
    return {
        "name": name,
        "repo": manifest.repo,
        "revision": manifest.revision,
        "commit": manifest.commit,
        "path": str(result.path),
        "weights": manifest.weights,
        "endpoint": manifest.endpoint,
        "files": len(manifest.files),
        "bytes": manifest.size,
        "transferred": result.transferred,
        "skipped": list(result.skipped),
    }


def _print_result(name: str, output: Path | None, result: PullResult) -> None:
    from ostro.weights.hub.selection import size_text

    manifest = result.manifest
    if result.transferred:
        typer.echo(
            f"Pulled {manifest.repo} at {manifest.commit[:12]}: {len(manifest.files)} files, "
            f"{size_text(manifest.size)}, all verified, in {result.path}"
        )
    typer.echo(f"Serve it with: ostro serve {name if output is None else result.path}")


class _Lines:
    """Progress where nobody watches a terminal: what happens is said on stderr, bytes are not counted."""

    def say(self, line: str) -> None:
        typer.echo(line, err=True)

    def begin(self, total: int) -> None: ...

    def advance(self, size: int, reused: bool) -> None: ...


@contextmanager
def terminal_progress() -> Iterator[Progress]:
    """A progress bar on stderr if that is a terminal, plain lines if not."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    console = Console(stderr=True)
    with RichProgress(*columns, console=console) as bar:
        yield _Bar(bar, console)


class _Bar:
    """Progress on a terminal."""

    def __init__(self, bar: RichProgress, console: Console) -> None:
        self._bar, self._console = bar, console
        self._task = bar.add_task("asking the hub", total=None)

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False)

    def begin(self, total: int) -> None:
        self._bar.update(self._task, total=total, description="pulling")

    def advance(self, size: int, reused: bool) -> None:
        self._bar.update(self._task, advance=size, description="checking" if reused else "pulling")
