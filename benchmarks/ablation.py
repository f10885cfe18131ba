"""What each part of the unified architecture gains: it is trained with the part and without, from scratch, by runs of
one short recipe and several seeds, and asked validation examples by the engine that serves it.

Runs have equal budgets: the same steps of the same batches. Parts that change nothing of the contrastive stage take the
encoders that it gave "everything" of the same seed. Without that stage its time goes to more steps of joint training,
with the encoders at the full rate; they are then without what the stage brings besides, batch normalisation and Muon.
Requests are timed when all parts of a seed are there, in turns.

What is found is kept in --results, and not measured again: a long measurement can be broken off, and go on elsewhere.
Takes about a quarter of an hour a run; --jobs runs side by side, each with its share of the cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import torch

from benchmarks.report import machine
from ostro.cli.train_family import measure, minutes, size
from ostro.core.sampling import SamplingParams
from ostro.engine.llm import LLM
from ostro.training.family import run_family
from ostro.training.family_recipe import FamilyRecipe
from ostro.training.judging import prompt_of
from ostro.training.prepared import prepare
from ostro.training.recipe import convert, read_yaml
from ostro.training.senses.tasks import Manner

RECIPE = Path(__file__).with_name("ablation.yaml")
RESULTS = Path(__file__).with_name("ablation-results.json")
ROUNDS = 20
EXAMPLES = 400
SHOWN = ("photo_label", "scene", "digit_label", "intent_label", "intent", "series")


def _shape(recipe: FamilyRecipe, **changes: object) -> FamilyRecipe:
    return msgspec.structs.replace(recipe, shape=msgspec.structs.replace(recipe.shape, **changes))


def _no_contrast(recipe: FamilyRecipe) -> FamilyRecipe:
    """No pre-training and no contrastive loss; the encoders learn with the decoder from the first step."""
    pretrain = {sense: msgspec.structs.replace(one, steps=0) for sense, one in recipe.pretrain.items()}
    joint, align = recipe.joint, recipe.align
    steps = joint.optimiser.steps + align.optimiser.steps + NO_CONTRAST_STEPS
    whole = msgspec.structs.replace(
        joint,
        encoder_rate=1.0,
        optimiser=msgspec.structs.replace(align.optimiser, steps=steps),
        objective=msgspec.structs.replace(joint.objective, contrast=0.0),
    )
    none = msgspec.structs.replace(align, optimiser=msgspec.structs.replace(align.optimiser, steps=0))
    return msgspec.structs.replace(recipe, pretrain=pretrain, align=none, joint=whole)


# Steps of joint training that take as long as the recipe's contrastive stage.
NO_CONTRAST_STEPS = 135
WHOLE, NO_CONTRAST = "everything", "no contrastive stage"
PARTS: dict[str, Callable[[FamilyRecipe], FamilyRecipe]] = {
    WHOLE: lambda recipe: recipe,
    "no adapters": lambda recipe: _shape(recipe, adapter=0),
    "no routing": lambda recipe: _shape(recipe, routing=False),
    "no gate": lambda recipe: _shape(recipe, widths=()),
    NO_CONTRAST: _no_contrast,
}


class Results(msgspec.Struct, omit_defaults=True):
    """runs: by seed and part. milliseconds: by seed and part, of a question and of a photo."""

    recipe: str
    machine: dict[str, Any]
    runs: dict[int, dict[str, dict[str, float]]] = {}
    milliseconds: dict[int, dict[str, list[float]]] = {}


def kept_results(file: Path, recipe: FamilyRecipe) -> Results:
    """Raises SystemExit where they were measured of something else."""
    measured = {"examples": EXAMPLES, "rounds": ROUNDS, "steps without": NO_CONTRAST_STEPS}
    digest = hashlib.sha256(msgspec.json.encode([recipe, measured])).hexdigest()
    if not file.is_file():
        return Results(digest, machine())
    found = msgspec.json.decode(file.read_bytes(), type=Results)
    if found.recipe != digest:
        raise SystemExit(f"error: {file} is of another recipe; name another file with --results, or remove it")
    return found


def keep(results: Results, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part")
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    unfinished.replace(file)  # a run that is broken off here loses no hours


def folder_of(out: Path, name: str, seed: int) -> Path:
    return out / f"{name.replace(' ', '-')}-{seed}"


def run(name: str, seed: int, recipe: FamilyRecipe, data: Path, out: Path, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    folder = folder_of(out, name, seed)
    changed = msgspec.structs.replace(PARTS[name](recipe), seed=recipe.seed + seed)
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder_of(out, WHOLE, seed)
    if name not in (WHOLE, NO_CONTRAST) and (whole / "encoders").is_dir() and not (folder / "encoders").exists():
        shutil.copytree(whole / "encoders", folder / "encoders")  # whose recipe is compared when they are read
        for log in whole.glob("log-*-encoder.jsonl"):
            shutil.copy(log, folder)  # the minutes that they took are those of this run, too
    (trained,) = run_family(changed, data, folder, watch=lambda *_: None)
    figures = {"minutes": minutes(folder)}
    figures |= measure(trained.family, EXAMPLES, wordings=(False,)) | size(trained.family)
    if trained.gate is not None:
        figures |= {"gate_share": trained.gate.share}
    return figures


def per_request(recipe: FamilyRecipe, names: Sequence[str], seed: int, data: Path, out: Path) -> dict[str, list[float]]:
    """Median milliseconds of a request to the engine, alone, for eight tokens: of a question and of a photo."""
    family = prepare(msgspec.structs.replace(recipe, seed=recipe.seed + seed), data, folder_of(out, WHOLE, seed))
    models = {name: LLM(folder_of(out, name, seed) / "model", prefix_caching=False) for name in names}
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    found: dict[str, list[float]] = {name: [] for name in names}
    for task in ("intent", "photo"):
        examples = family.tasks({task: 1.0}, Manner(training=False), seed=9).examples(0, ROUNDS + 2)
        taken: dict[str, list[float]] = {name: [] for name in names}
        for index, example in enumerate(examples):
            for place in range(len(names)):
                name = names[(index + place) % len(names)]  # each is the first in turn, which costs some percent
                llm = models[name]
                assert llm.tokenizer is not None
                prompt = prompt_of(llm.tokenizer, example)
                started = time.perf_counter()
                llm.generate([prompt], params)
                taken[name].append(1000 * (time.perf_counter() - started))
        for name, times in taken.items():
            found[name].append(statistics.median(times[2:]))
    return found


def row(name: str, results: Results) -> str:
    """Means over seeds, and from the least to the most."""
    runs = [results.runs[seed][name] for seed in sorted(results.runs) if name in results.runs[seed]]
    times = [found for found in results.milliseconds.values() if name in found]
    cells = [name, str(len(runs))]
    for figure in SHOWN:
        cells.append(spread([100 * run[figure] for run in runs]))
    cells.append(f"{runs[0]['parameters'] / 1e6:.2f} M")
    cells.append(spread([run["minutes"] for run in runs]))
    for index in (0, 1):
        milliseconds = [found[name][index] for found in times]
        # Beside those of the same seed, in turns with which they were measured: seeds may be of different hours.
        shares = [100 * found[name][index] / found[WHOLE][index] for found in times if WHOLE in found]
        both = f"{statistics.mean(milliseconds):.1f}; {spread(shares)}%" if shares else ""
        cells.append(both)
    return "| " + " | ".join(cells) + " |"


def spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data files of the recipe")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the figures (default: %(default)s)")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--json", action="store_true", help="print only the last line, one JSON object")
    args = parser.parse_args()
    recipe = convert(read_yaml(args.recipe), FamilyRecipe, args.recipe)
    results = kept_results(args.results, recipe)
    # First that whose encoders the others take, and that which needs none of them.
    names = sorted(args.parts, key=lambda name: (name != WHOLE, name != NO_CONTRAST))
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    wanted = [(name, seed) for seed in range(args.seeds) for name in names if name not in results.runs.get(seed, {})]
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        runs = {pool.submit(run, *one, recipe, args.data, args.out, threads): one for one in wanted}
        try:
            for done in as_completed(runs):
                name, seed = runs[done]
                results.runs.setdefault(seed, {})[name] = done.result()
                keep(results, args.results)
                print(f"seed {seed}, {name}: {done.result()}", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # or hours go by before the error is seen
            raise
    for seed in range(args.seeds):
        there = all((folder_of(args.out, name, seed) / "model").is_dir() for name in names)
        if there and not results.milliseconds.get(seed, {}).keys() >= set(names):
            results.milliseconds[seed] = per_request(recipe, names, seed, args.data, args.out)
            keep(results, args.results)
    if not args.json:
        print("| part | seeds | " + " | ".join([*SHOWN, "parameters", "minutes", "ms a question", "ms a photo"]) + " |")
        print("| --- " * (len(SHOWN) + 6) + "|")
        for name in args.parts:
            print(row(name, results))
    print(json.dumps({"benchmark": "ablation", **msgspec.to_builtins(results)}))


if __name__ == "__main__":
    main()
