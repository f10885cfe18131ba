"""What each way of quantising costs the embedded model: accuracy and perplexity on data it was not trained on.

Every row is a checkpoint that `ostro.compression.quantise` wrote and that runs on the kernels that serve it, calibrated
on a part of the training data. The baselines with one scale a matrix are no stored format: their float32 weights are
rounded in memory. Loss is the rise of the perplexity in per cent; the ratio is that of 4 bits with one scale a matrix
over that of groups of 32.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
from pathlib import Path

import torch

from benchmarks.report import machine
from ostro.compression import text
from ostro.compression.per_tensor import per_tensor
from ostro.compression.quantise import Texts, quantise_folder
from ostro.compression.recipe import METHODS, Recipe, Rule
from ostro.models.layers.decoder import Decoder, Embedding
from ostro.models.layers.linear import Linear
from ostro.training.evaluate import intent_accuracy, text_loss
from ostro.training.recipe import load_recipe
from ostro.training.run import Prepared, prepare
from ostro.weights.loader import load_model

CALIBRATION_ROWS, LENGTH = 128, 256


def one_scale(bits: int, folder: Path) -> Decoder:
    model = load_model(folder, dtype=torch.float32)
    for module in model.modules():
        if isinstance(module, Linear):
            for name in module.slices:
                module.part(name).copy_(per_tensor(module.part(name), bits))
        elif isinstance(module, Embedding):
            module.part(None).copy_(per_tensor(module.part(None), bits))
    return model


def recipes() -> dict[str, Recipe]:
    """Name of a row -> how it is made."""
    found = {}
    for scheme in ("int4", "int4-g64", "int4-g128", "int4-g0", "int4-shifted", "int4-g128-shifted"):
        found[f"{scheme}, rtn"] = Recipe(scheme=scheme)
    found["int4, rtn without search"] = Recipe(search=False)
    found["int4, rtn, correlated"] = Recipe(grouping="correlated")
    found["int4-g128, rtn, correlated"] = Recipe(scheme="int4-g128", grouping="correlated")
    for method in ("weighted", "gptq", "awq", "awq+gptq"):
        rounding, scaling = METHODS[method]
        found[f"int4, {method}"] = Recipe(rounding=rounding, scaling=scaling)
    found["int4, gptq, correlated"] = Recipe(rounding="gptq", grouping="correlated")
    found["int4-g128, gptq"] = Recipe(scheme="int4-g128", rounding="gptq")
    found["int4, gptq; down_proj and embedding int8"] = Recipe(
        rounding="gptq", layers=(Rule("*.down_proj", "int8"), Rule("*.embed_tokens", "int8"))
    )
    found["int8, rtn"] = Recipe(scheme="int8")
    found["int8-g32, rtn"] = Recipe(scheme="int8-g32")
    found["int8, smoothquant"] = Recipe(scheme="int8", scaling="smoothquant")
    return found


def calibration(prepared: Prepared) -> torch.Tensor:
    """Training conversations and training text, half and half."""
    renderer = prepared.renderer
    chats = [[*renderer.prompt([], q.text), *renderer.encode(q.label)] for q in prepared.split.train]
    parts = [
        text.spread(text.windows(documents, LENGTH, renderer.special.bos), CALIBRATION_ROWS // 2)
        for documents in (chats, [renderer.encode(prepared.train_text)])
    ]
    return torch.cat(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data files of the recipe")
    parser.add_argument("--model", type=Path, required=True, help="what `ostro train recipes/ostro-text.yaml` wrote")
    parser.add_argument("--json", action="store_true", help="print only the last line, one JSON object")
    args = parser.parse_args()
    folder = args.model
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copyfile(folder / "tekken.json", Path(scratch) / "tekken.json")
        prepared = prepare(load_recipe(Path("recipes/ostro-text.yaml")), args.data, Path(scratch))
        rows_NL = calibration(prepared)

        def measure(name: str, model: Decoder, bits: float, error: float = 0.0) -> None:
            perplexity = math.exp(text_loss(model, prepared.renderer, prepared.validation_text))
            accuracy = intent_accuracy(model, prepared.renderer, prepared.split.validation)
            base = rows.get("float32", {"perplexity": perplexity, "accuracy": accuracy})
            rows[name] = {
                "bits": bits,
                "error": error,
                "perplexity": perplexity,
                "loss_percent": 100 * (perplexity / base["perplexity"] - 1),
                "accuracy": accuracy,
                "accuracy_points": 100 * (accuracy - base["accuracy"]),
            }
            if not args.json:
                row = rows[name]
                loss, points = row["loss_percent"], row["accuracy_points"]
                shown = f"{name:44} {bits:6.2f} bits  error {error:.4f}  perplexity {perplexity:8.4f} ({loss:+7.2f}%)"
                print(f"{shown}  accuracy {accuracy:.2%} ({points:+.2f})", flush=True)

        measure("float32", load_model(folder, dtype=torch.float32), 32)
        measure("int4, one scale a matrix", one_scale(4, folder), 4)
        measure("int8, one scale a matrix", one_scale(8, folder), 8)
        for name, recipe in recipes().items():
            out = Path(scratch) / "out"
            report = quantise_folder(folder, out, recipe, Texts(rows_NL), force=True)
            error = sum(matrix.error for matrix in report.matrices) / len(report.matrices)
            measure(name, load_model(out), report.bits_per_weight, error)
    whole, groups = rows["int4, one scale a matrix"], rows["int4, rtn"]
    result = {
        "benchmark": "quantization_quality",
        "ours": groups["loss_percent"],
        "peer": whole["loss_percent"],
        "ratio": whole["loss_percent"] / groups["loss_percent"],
        "unit": "% of perplexity",
        "rows": rows,
        "calibration_tokens": rows_NL.numel(),
        "machine": machine(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
