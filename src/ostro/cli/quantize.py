"""`ostro quantize`: a dense checkpoint to a quantised one, with a report of what that cost."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ostro.core.options import MAX_THREADS

if TYPE_CHECKING:
    import torch

    from ostro.compression.quantise import Texts
    from ostro.compression.recipe import Recipe
    from ostro.compression.report import Report
    from ostro.tokenizer import Tokenizer

DEFAULT_LENGTH = 512
EXAMPLE = "Example: ostro quantize ostro-nano --out nano-int4 --method gptq --scheme int4"


def register(app: typer.Typer) -> None:
    """Add the command to the root."""
    app.command("quantize", epilog=EXAMPLE)(quantize)


def quantize(
    model: Annotated[
        str, typer.Argument(help="A dense or FP8 checkpoint folder, or a name that `ostro models` lists.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the quantised checkpoint.")],
    scheme: Annotated[
        str | None, typer.Option(help="int4 or int8, with -gN for groups of N and -shifted for zero points. [int4]")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="rtn, weighted, gptq, awq, awq+gptq, smoothquant or smoothquant+gptq. [rtn]"),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="YAML file with all of that and rules by layer name.", dir_okay=False)
    ] = None,
    correlated: Annotated[
        bool, typer.Option("--correlated", help="Sort columns so that like ones share a group.")
    ] = False,
    calibration: Annotated[
        Path | None, typer.Option(help="Text, or .jsonl of texts or chats. Without it a shipped sample is taken.")
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(help="Text for the perplexity; without it a part of the calibration text is held out."),
    ] = None,
    windows: Annotated[int, typer.Option(min=1, help="Most windows of calibration text.")] = 64,
    length: Annotated[
        int | None, typer.Option(min=8, help="Tokens a window. [512, or the model's context if that is less]")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, max=MAX_THREADS, help="CPU threads.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that this command wrote before.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Quantise a checkpoint block by block, measure what it cost, and load the result once to prove it."""
    import torch

    from ostro.compression.quantise import quantise_folder
    from ostro.weights.resolve import resolve_model

    if threads is not None:
        torch.set_num_threads(threads)
    chosen = _recipe(recipe, scheme, method, correlated)
    folder = resolve_model(model)
    texts = _texts(folder, chosen, calibration, evaluation, windows, length)
    with _Watcher() as watch:
        report = quantise_folder(folder, out, chosen, texts, force=force, progress=watch)
    if as_json:
        typer.echo(report.to_json(), nl=False)
    else:
        _tell(report, out)


def _recipe(path: Path | None, scheme: str | None, method: str | None, correlated: bool) -> Recipe:
    import msgspec

    from ostro.compression.recipe import METHODS, Recipe, load_recipe
    from ostro.core.errors import ConfigError

    recipe = Recipe() if path is None else load_recipe(path)
    if scheme is not None:
        recipe = msgspec.structs.replace(recipe, scheme=scheme)
    if method is not None:
        if method not in METHODS:
            raise ConfigError(f"There is no method '{method}'; there are {', '.join(METHODS)}.", param="method")
        rounding, scaling = METHODS[method]
        recipe = msgspec.structs.replace(recipe, rounding=rounding, scaling=scaling)
    return msgspec.structs.replace(recipe, grouping="correlated") if correlated else recipe


def _texts(
    folder: Path, recipe: Recipe, calibration: Path | None, evaluation: Path | None, windows: int, length: int | None
) -> Texts:
    """What is run through the model. Without a tokenizer there is nothing, which only calibration minds."""
    from ostro.compression import text
    from ostro.compression.quantise import Texts
    from ostro.compression.recipe import needs_inputs
    from ostro.core.errors import ConfigError
    from ostro.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder)
    if tokenizer is None:
        if needs_inputs(recipe) or calibration or evaluation:
            raise ConfigError(
                f"{folder} has no tokenizer, so text means nothing to it; add it, or take the method rtn."
            )
        return Texts()
    length = _length(folder, length)
    rows_NL = _rows(calibration or text.SAMPLE, tokenizer, length)
    if evaluation is not None:
        return Texts(text.spread(rows_NL, windows), _rows(evaluation, tokenizer, length))
    if not needs_inputs(recipe) and len(rows_NL) == 1:
        return Texts(None, rows_NL)  # Nothing is calibrated, so nothing has to be held out.
    calibration_NL, evaluation_NL = text.split(rows_NL)
    return Texts(text.spread(calibration_NL, windows), text.spread(evaluation_NL, max(1, windows // 4)))


def _length(folder: Path, wanted: int | None) -> int:
    from ostro.core.errors import ConfigError
    from ostro.weights.folder import open_folder

    context = open_folder(folder).config.max_position_embeddings
    if wanted is not None and wanted > context:
        raise ConfigError(f"--length {wanted} is more than the model's context of {context} tokens.", param="length")
    return wanted or min(DEFAULT_LENGTH, context)


def _rows(path: Path, tokenizer: Tokenizer, length: int) -> torch.Tensor:
    from ostro.compression import text

    return text.windows(text.read_documents(path, tokenizer), length, tokenizer.bos_id)


def _tell(report: Report, out: Path) -> None:
    size = f"{report.stored_bytes / 1e6:,.1f} MB, {report.bits_per_weight:.2f} bits a weight"
    typer.echo(f"{out}: {size}, {report.seconds:,.0f} s")
    worst = sorted(report.matrices, key=lambda matrix: -matrix.error)[:3]
    shown = ", ".join(f"{matrix.name} {matrix.error:.4f}" for matrix in worst)
    typer.echo(f"largest relative errors of {report.error_of}: {shown}")
    if report.perplexity is not None:
        told = report.perplexity
        change = 100 * (told.after / told.before - 1)
        typer.echo(
            f"perplexity of {told.tokens:,} held-out tokens: {told.before:.4f} before, {told.after:.4f} after "
            f"({change:+.2f}%)"
        )
    typer.echo(f"report: {out / 'quantization.html'}\nserve it: ostro serve {json.dumps(str(out))[1:-1]}")


class _Watcher:
    """A progress bar on a terminal; elsewhere a line a block."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("quantising"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("quantising", total=None)

    def __enter__(self) -> _Watcher:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int, what: str) -> None:
        self._bar.update(self._task, completed=done, total=total)
        if not sys.stderr.isatty():
            typer.echo(f"{what} ({done}/{total})", err=True)
