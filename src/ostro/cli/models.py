"""`ostro models`: what can be served now, and the names that can be pulled."""

from __future__ import annotations

import json
from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the root."""
    app.command("models", epilog="Example: ostro models --json")(models)


def models(as_json: bool = typer.Option(False, "--json", help="Print one JSON object.")) -> None:
    """List models here, and names that can be pulled."""
    from ostro.core.paths import embedded_models
    from ostro.weights.catalog import CATALOG
    from ostro.weights.manifest import is_complete, pulled_models

    embedded = [{"name": name, "path": str(path), "bytes": _size(path)} for name, path in embedded_models().items()]
    pulled = [
        {
            "name": next((e.name for e in CATALOG.values() if e.repo == manifest.repo), manifest.repo),
            "repo": manifest.repo,
            "commit": manifest.commit,
            "path": str(folder),
            "bytes": manifest.size,
            "weights": manifest.weights,
            "complete": is_complete(folder, manifest),
        }
        for folder, manifest in pulled_models()
    ]
    known = [
        {"name": e.name, "repo": e.repo, "licence": e.licence, "gated": e.gated, "note": e.note}
        for e in CATALOG.values()
    ]
    if as_json:
        typer.echo(json.dumps({"embedded": embedded, "pulled": pulled, "known": known}))
        return
    _print(embedded, pulled, known)


def _print(embedded: list[dict[str, object]], pulled: list[dict[str, object]], known: list[dict[str, object]]) -> None:
    from ostro.core.paths import models_folder
    from ostro.weights.hub.selection import size_text

    typer.echo("Embedded (ostro serve NAME):")
    for row in embedded:
        typer.echo(f"  {row['name']:<28}{size_text(float(str(row['bytes']))):>10}")
    typer.echo(f"\nPulled, in {models_folder()}:")
    for row in pulled:
        state = "" if row["complete"] else "  incomplete: pull it again"
        size = size_text(float(str(row["bytes"])))
        typer.echo(f"  {row['name']:<28}{size:>10}  {row['repo']} at {str(row['commit'])[:12]}{state}")
    if not pulled:
        typer.echo("  none yet")
    typer.echo("\nNames for `ostro pull NAME` (owner/name of the hub works too):")
    for row in known:
        note = "; ".join(str(part) for part in (row["note"], row["licence"]) if part)
        typer.echo(f"  {row['name']:<28}{row['repo']}  ({note}{'; gated' if row['gated'] else ''})")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
