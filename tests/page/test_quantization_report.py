"""The report of `ostro quantize` in a browser: a line for each kind of matrix, a row for each matrix, no errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ostro.compression.recipe import Recipe
from ostro.compression.report import MatrixReport, Perplexity, Report, to_html


def matrix(name: str, error: float, scheme: str = "int4") -> MatrixReport:
    return MatrixReport(
        name=name, shape=(64, 64), scheme=scheme, rounding="gptq", bits_per_weight=4.5, error=error, scaled=True
    )


def test_the_report_shows_errors_by_layer(chromium: Any, tmp_path: Path) -> None:
    kinds = ("self_attn.q_proj", "mlp.up_proj")
    matrices = [
        matrix(f"model.layers.{layer}.{kind}.weight", 0.01 * (layer + 1)) for layer in range(4) for kind in kinds
    ]
    matrices += [matrix("model.embed_tokens.weight", 0.08), matrix("lm_head.weight", 0.0, "dense")]
    report = Report(
        model="<script>alert(1)</script>",
        recipe=Recipe(rounding="gptq"),
        error_of="outputs",
        weights=10_000,
        stored_bytes=5_625,
        bits_per_weight=4.5,
        perplexity=Perplexity(before=10.0, after=10.1, tokens=1000),
        calibration_tokens=4096,
        seconds=12.0,
        matrices=matrices,
    )
    path = tmp_path / "report.html"
    path.write_text(to_html(report), encoding="utf-8")
    page = chromium.new_page(viewport={"width": 900, "height": 700})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: errors.append(dialog.message))
    page.goto(path.as_uri())
    assert "<script>alert(1)</script> in 4.50 bits a weight" in page.locator("h1").inner_text()
    assert "10.0000 before, 10.1000 after (+1.00%)" in page.locator("dl").inner_text()
    assert page.locator("polyline").count() == len(kinds)
    assert page.locator("circle").count() == 8
    assert page.locator("table tr").count() == 1 + len(matrices)
    # Larger errors are higher up, and all of them inside the picture.
    heights = [circle.get_attribute("cy") for circle in page.locator("polyline + circle").all()]
    tops = [float(circle.get_attribute("cy")) for circle in page.locator("circle").all()][:4]
    assert heights
    assert tops == sorted(tops, reverse=True)
    assert all(0 < top < 320 for top in tops)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not errors
    page.close()
