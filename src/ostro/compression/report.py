"""What quantisation did to each matrix and to the model, as JSON and as a page."""

from __future__ import annotations

import html
import math

import msgspec

from ostro.compression.recipe import Recipe

# Lines of the plot, told apart by colour and by dash.
_STYLES = (("#3b6fd4", ""), ("#c2571a", "6 3"), ("#2a8f5b", "2 3"), ("#8a4fbf", "8 3 2 3"))
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 860, 320, 70, 36


_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem }
dt { opacity: .7 }
dd { margin: 0; overflow-wrap: anywhere }
table { border-collapse: collapse; font-size: 13px }
td, th { padding: .15rem .6rem; text-align: left; border-bottom: 1px solid #8884 }
td.n { text-align: right; font-variant-numeric: tabular-nums }
svg { width: 100%; height: auto }
svg text { font-size: 12px; fill: currentColor }
div.wide { overflow-x: auto }
p.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem }
p.legend svg { width: 28px }
"""


class MatrixReport(msgspec.Struct, frozen=True, kw_only=True):
    """error: the root of the squared error in parts of that of zeros; of the outputs over calibration text where there
    was any, else of the weights. scheme: "dense" where the matrix stayed as it was."""

    name: str
    shape: tuple[int, int]
    scheme: str
    rounding: str
    bits_per_weight: float
    error: float
    scaled: bool = False
    reordered: bool = False


class Perplexity(msgspec.Struct, frozen=True, kw_only=True):
    """Of held-out text, before and after; tokens: how many were predicted."""

    before: float
    after: float
    tokens: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """stored_bytes: of all tensors. bits_per_weight: with everything that is stored of the decoder.
    error_of: "outputs" or "weights", what the matrices' errors are of."""

    model: str
    recipe: Recipe
    error_of: str
    weights: int
    stored_bytes: int
    bits_per_weight: float
    perplexity: Perplexity | None
    calibration_tokens: int
    seconds: float
    matrices: list[MatrixReport]

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def to_html(report: Report) -> str:
    """One page that needs nothing else: the figures, the error of each layer as a plot, and a table of all matrices."""
    title = f"{html.escape(report.model)} in {report.bits_per_weight:.2f} bits a weight"
    figures = [
        ("stored", f"{report.stored_bytes / 1e6:,.1f} MB for {report.weights / 1e6:,.1f} M weights"),
        ("bits per weight", f"{report.bits_per_weight:.3f}"),
        ("recipe", html.escape(msgspec.json.encode(report.recipe).decode())),
        ("calibration", f"{report.calibration_tokens:,} tokens" if report.calibration_tokens else "none"),
        ("time", f"{report.seconds:,.0f} s"),
    ]
    if report.perplexity is not None:
        told = report.perplexity
        change = 100 * (told.after / told.before - 1)
        figures.insert(
            2,
            (
                "perplexity",
                f"{told.before:.4f} before, {told.after:.4f} after ({change:+.2f}%), {told.tokens:,} tokens",
            ),
        )
    rows = "".join(_row(matrix) for matrix in report.matrices)
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in figures)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<h1>{title}</h1><dl>{listed}</dl>"
        f"<h2>Relative error of the {html.escape(report.error_of)}, layer by layer</h2>{_plot(report.matrices)}"
        '<h2>Matrices</h2><div class="wide"><table>'
        "<tr><th>name<th>shape<th>scheme<th>rounding<th>bits<th>error<th></tr>"
        f"{rows}</table></div></html>\n"
    )


def _row(matrix: MatrixReport) -> str:
    notes = [word for word, said in (("inputs scaled", matrix.scaled), ("columns sorted", matrix.reordered)) if said]
    outputs, inputs = matrix.shape
    return (
        f"<tr><td>{html.escape(matrix.name)}<td>{outputs} × {inputs}<td>{matrix.scheme}<td>{matrix.rounding}"
        f'<td class="n">{matrix.bits_per_weight:.2f}<td class="n">{matrix.error:.5f}<td>{", ".join(notes)}</tr>'
    )


def _plot(matrices: list[MatrixReport]) -> str:
    """Error over layers on a logarithmic scale, a line for each kind of matrix; dense ones have none."""
    series: dict[str, dict[int, float]] = {}
    for matrix in matrices:
        layer, kind = _place(matrix.name)
        if layer is not None and matrix.error > 0:
            series.setdefault(kind, {})[layer] = matrix.error
    values = [value for line in series.values() for value in line.values()]
    if not values:
        return "<p>No layer was quantised.</p>"
    ticks = [digit * 10.0**power for power in range(-9, 3) for digit in (1, 2, 5)]
    low = max(tick for tick in ticks if tick <= max(min(values), ticks[0]))
    high = min(tick for tick in ticks if tick > max(values))
    last = max(1, *(layer for line in series.values() for layer in line))
    parts = []
    for tick in ticks:
        if low <= tick <= high:
            y = _y(tick, low, high)
            parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#8886"/>')
            parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for layer in range(0, last + 1, max(1, last // 8)):
        x = _x(layer, last)
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 12}" text-anchor="middle">{layer}</text>')
    legend = []
    for index, (kind, line) in enumerate(series.items()):
        colour, dash = _STYLES[index % len(_STYLES)][0], _STYLES[index // len(_STYLES) % len(_STYLES)][1]
        points = " ".join(f"{_x(layer, last):.1f},{_y(error, low, high):.1f}" for layer, error in sorted(line.items()))
        stroke = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
        parts.append(f'<polyline points="{points}" fill="none" {stroke}/>')
        for layer, error in line.items():
            x, y = _x(layer, last), _y(error, low, high)
            tip = f"{html.escape(kind)}, layer {layer}: {error:.5f}"
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"><title>{tip}</title></circle>')
        mark = f'<svg viewBox="0 0 28 10"><line x2="28" y1="5" y2="5" {stroke}/></svg>'
        legend.append(f"<span>{mark} {html.escape(kind)}</span>")
    picture = (
        f'<svg viewBox="0 0 {_WIDTH + 10} {_HEIGHT}" role="img" aria-label="error by layer">{"".join(parts)}</svg>'
    )
    return f'{picture}<p class="legend">{"".join(legend)}</p>'


def _place(name: str) -> tuple[int | None, str]:
    """`model.layers.3.mlp.up_proj.weight` -> (3, "mlp.up_proj")."""
    words = name.removesuffix(".weight").split(".")
    for index, word in enumerate(words):
        if word.isdigit():
            return int(word), ".".join(words[index + 1 :])
    return None, ".".join(words)


def _x(layer: int, last: int) -> float:
    return _LEFT + 10 + (_WIDTH - _LEFT - 20) * layer / last


def _y(error: float, low: float, high: float) -> float:
    share = math.log(high / max(error, low)) / math.log(high / low)
    return 10 + (_HEIGHT - _BOTTOM - 20) * share
