"""A recipe and a data folder to a checkpoint folder."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from ostro.models.layers.decoder import Decoder
from ostro.training.batches import Batches
from ostro.training.conversations import Renderer
from ostro.training.data import Split, read_labels, read_questions, read_text, split_questions, split_text
from ostro.training.evaluate import conversation_accuracy, intent_accuracy, text_loss
from ostro.training.loop import Objective, Trainer, append_log, initialise
from ostro.training.objective import next_token_loss
from ostro.training.recipe import OptimiserRecipe, Recipe
from ostro.training.tokenizer import train_tekken, write_tekken
from ostro.weights.writer import save_checkpoint

# Validation while training uses a part, so that it costs seconds; the final figures use all of it.
QUICK = 308


@dataclass(frozen=True)
class Prepared:
    """What a run trains and measures on."""

    split: Split
    train_text: str
    validation_text: str
    renderer: Renderer
    fingerprint: str


def prepare(recipe: Recipe, data: Path, out: Path) -> Prepared:
    """Read, split, and learn the vocabulary from the training part only. Raises TrainingError."""
    labels = read_labels(data / recipe.data.labels)
    questions = read_questions(data / recipe.data.questions, labels)
    text = read_text(data / recipe.data.text)
    split = split_questions(questions, recipe.data.validation, recipe.seed)
    train_text, validation_text = split_text(text, recipe.data.validation)
    digest = hashlib.sha256(msgspec.json.encode(recipe))
    for question in questions:
        digest.update(f"{question.text}\t{question.label}\n".encode())
    digest.update(text.encode())
    tekken = out / "tekken.json"
    if not tekken.is_file():
        corpus = [q.text for q in split.train] + [q.label for q in split.train] + train_text.splitlines(keepends=True)
        content = train_tekken(corpus, vocab_size=recipe.tokenizer.vocab_size, num_special=recipe.tokenizer.num_special)
        write_tekken(content, out)
    return Prepared(split, train_text, validation_text, Renderer(tekken), digest.hexdigest())


def run_recipe(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    watch: Callable[[int, dict[str, float]], None],
    device: torch.device | None = None,
) -> dict[str, float]:
    """Train, or go on training, and write the checkpoint into `out / "model"`. device: the CPU without one. Returns the
    final figures."""
    device = device or torch.device("cpu")
    prepared = prepare(recipe, data, out)
    model = Decoder(recipe.model.config(recipe.tokenizer.vocab_size))
    initialise(model, recipe.seed)
    model.to(device)
    trainer = Trainer(
        model,
        next_tokens(Batches(recipe, prepared.renderer, prepared.split.train, prepared.train_text), recipe.train),
        recipe.train,
        seed=recipe.seed,
        folder=out / "state",
        fingerprint=prepared.fingerprint,
    )
    trainer.resume()
    log = out / "log.jsonl"

    def record(step: int, figures: dict[str, float]) -> None:
        append_log(log, step, figures)
        watch(step, figures)

    def quick(current: Decoder) -> dict[str, float]:
        stride = max(1, len(prepared.split.validation) // QUICK)
        part = prepared.split.validation[::stride]
        # Answers are made on the CPU, which a copy of few parameters reaches quickly.
        here = current if device.type == "cpu" else copy.deepcopy(current).cpu()
        return {"accuracy": intent_accuracy(here, prepared.renderer, part)}

    trainer.run(watch=record, evaluate=quick)
    return finish(prepared, trainer.average.cpu(), out)


def next_tokens(batches: Batches, recipe: OptimiserRecipe) -> Objective:
    """The loss of the next token over a step's batch."""

    def objective(model: Decoder, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        loss = next_token_loss(
            model, batches.batch(step).to(model.device), dropout=recipe.dropout, label_smoothing=recipe.label_smoothing
        )
        return loss, {}

    return objective


def finish(prepared: Prepared, model: Decoder, out: Path) -> dict[str, float]:
    """Write the checkpoint in bfloat16 and measure that, not the float32 weights, on all validation data."""
    folder = out / "model"
    save_checkpoint(model, folder, dtype=torch.bfloat16)
    (folder / "tekken.json").write_bytes((out / "tekken.json").read_bytes())
    rounded = Decoder(model.config)
    rounded.load_state_dict({key: value.bfloat16().float() for key, value in model.state_dict().items()})
    validation = prepared.split.validation
    figures = {
        "validation_questions": float(len(validation)),
        "intent_accuracy": intent_accuracy(rounded, prepared.renderer, validation),
        "intent_accuracy_fifth_turn": conversation_accuracy(rounded, prepared.renderer, validation),
        "text_loss": text_loss(rounded, prepared.renderer, prepared.validation_text),
    }
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures
