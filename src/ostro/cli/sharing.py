"""How the models of one `ostro serve` are named, and how they share its memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ostro.core.footprint import Survey
    from ostro.core.options import EngineOptions


def parse_models(first: str | None, more: Sequence[str], served_name: str | None) -> dict[str, str]:
    """Paths or catalogue names by served name; the first is the default. Raises typer.BadParameter.

    first: the positional argument. more: `--model` options, "name=what" or "what", which is served under its own name.

    >>> parse_models("ostro-nano", ["big=models/mistral-7b"], None)
    {'ostro-nano': 'ostro-nano', 'big': 'models/mistral-7b'}
    """
    given = [_split(text) for text in ([first] if first is not None else []) + list(more)] or [("", "ostro-nano")]
    if served_name is not None:
        if len(given) > 1:
            raise typer.BadParameter("--served-name is for one model; name several with --model NAME=MODEL.")
        given = [(served_name, given[0][1])]
    named: dict[str, str] = {}
    for name, what in given:
        name = name or own_name(what)
        if name in named:
            raise typer.BadParameter(f"Two models would be called '{name}'; name them with --model NAME=MODEL.")
        named[name] = what
    return named


def own_name(model: str) -> str:
    """What a model is called on the wire where nobody says."""
    return Path(model).expanduser().absolute().name if model.startswith((".", "/", "~")) else model


def _split(text: str) -> tuple[str, str]:
    name, equals, what = text.partition("=")
    if not equals or Path(text).expanduser().exists():
        return "", text
    if not name or not what:
        raise typer.BadParameter(f"{text!r} is not NAME=MODEL, such as chat=mistral-7b-v0.3.")
    return name, what


def survey(models: Sequence[EngineOptions], budget: int | None) -> Survey:
    """What the models would take, found out by a process that may import PyTorch. Raises what it found wrong."""
    import msgspec

    from ostro.core.errors import OstroError
    from ostro.core.footprint import Survey
    from ostro.link.messages import WireError

    command = [sys.executable, "-m", "ostro.engine.survey", "--models", msgspec.json.encode(models).decode()]
    if budget is not None:
        command += ["--budget", str(budget)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode == 0:
        return msgspec.json.decode(done.stdout, type=Survey)
    if done.stdout:
        raise msgspec.json.decode(done.stdout, type=WireError).rebuild()
    last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
    raise OstroError(f"The models could not be sized (exit code {done.returncode}). {' '.join(last)}")
