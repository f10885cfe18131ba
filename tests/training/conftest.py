"""A tiny data folder and a recipe for it: seconds of training."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import msgspec
import pytest
import yaml

from ostro.training.recipe import DataRecipe, ModelRecipe, Recipe, TextRecipe, TokenizerRecipe

WORDS = {
    "card_lost": ["lost", "missing", "stolen", "gone"],
    "top_up": ["top", "recharge", "refill", "load"],
    "Exchange_rate?": ["rate", "exchange", "currency", "dollar"],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three labels, 24 questions each, and some verse."""
    folder = tmp_path / "data"
    folder.mkdir()
    with (folder / "questions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "category"])
        for label, words in WORDS.items():
            for index in range(24):
                word = words[index % 4]
                writer.writerow([f"Hello, my card: the {word} thing, number {index}?", label])
    (folder / "labels.json").write_text(json.dumps(list(WORDS)))
    (folder / "verse.txt").write_text("The quality of mercy is not strained,\nit droppeth as the gentle rain.\n" * 40)
    return folder


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(
        name="tiny",
        seed=7,
        tokenizer=TokenizerRecipe(vocab_size=380, num_special=40),
        model=ModelRecipe(
            hidden_size=32,
            intermediate_size=48,
            num_layers=2,
            num_heads=2,
            num_kv_heads=1,
            head_dim=16,
            context=256,
        ),
        data=DataRecipe(
            questions="questions.csv",
            labels="labels.json",
            text="verse.txt",
            row_length=64,
            text_share=0.25,
            word_dropout=0.1,
            typos=0.1,
            follow_up=0.1,
        ),
        train=TextRecipe(
            steps=12, tokens=400, rate=0.003, warmup=2, dropout=0.1, question_loss=0.1, save_every=4, evaluate_every=6
        ),
    )


@pytest.fixture
def recipe_file(tmp_path: Path, recipe: Recipe) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(msgspec.to_builtins(recipe)))
    return path
