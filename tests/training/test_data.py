"""Reading, splitting, vocabulary and rendering."""

from __future__ import annotations

from pathlib import Path

import pytest
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from ostro.core.errors import ConfigError, TrainingError
from ostro.training.conversations import Renderer
from ostro.training.data import Question, read_labels, read_questions, split_questions, split_text
from ostro.training.family_recipe import FamilyRecipe
from ostro.training.recipe import Recipe, convert, load_recipe, read_yaml
from ostro.training.run import prepare
from ostro.training.senses.scenes import ASKS, LANGUAGES
from ostro.training.tokenizer import train_tekken, write_tekken

TEXTS = ["my card is lost", "my card was stolen", "where is my card?", "lost_card", "Zwölf Boxkämpfer 你好 🙂"] * 20


def test_bad_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text("text,category\nwhere is it?,a\nwhat?,b\n")
    with pytest.raises(TrainingError, match=r"line 3: the category 'b'"):
        read_questions(path, ("a",))
    path.write_text("text,category\n ,a\n")
    with pytest.raises(TrainingError, match="line 2: the text is empty"):
        read_questions(path, ("a",))
    path.write_text("question,label\nx,a\n")
    with pytest.raises(TrainingError, match="columns text and category"):
        read_questions(path, ("a",))
    with pytest.raises(TrainingError, match="--data"):
        read_questions(tmp_path / "none.csv", ("a",))
    path.write_text("{}")
    with pytest.raises(TrainingError, match="list of label names"):
        read_labels(path)


def test_the_split_is_stratified_disjoint_and_stable() -> None:
    questions = tuple(Question(f"{label} question {i % 37}", label) for label in "abc" for i in range(40))
    split = split_questions(questions, 0.1, seed=3)
    assert split == split_questions(questions, 0.1, seed=3)
    assert split != split_questions(questions, 0.1, seed=4)
    assert {q.text for q in split.train}.isdisjoint(q.text for q in split.validation)
    for label in "abc":
        assert sum(q.label == label for q in split.validation) == 4
    train, held_out = split_text("one\ntwo\nthree\nfour\n" * 10, 0.25)
    assert train + held_out == "one\ntwo\nthree\nfour\n" * 10
    assert train.endswith("\n")
    assert len(held_out) > 30


def test_the_vocabulary_is_learnt_from_the_training_part_only(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    """Held-out questions with words of their own leave no trace."""
    prepare(recipe, data, tmp_path / "first")
    lines = (data / "questions.csv").read_text().splitlines()
    held_out = {q.text for q in prepare(recipe, data, tmp_path / "first").split.validation}
    changed = [line.replace("thing", "zzyzx") if any(text in line for text in held_out) else line for line in lines]
    assert changed != lines
    (data / "questions.csv").write_text("\n".join(changed) + "\n")
    prepare(recipe, data, tmp_path / "second")
    assert (tmp_path / "first" / "tekken.json").read_bytes() == (tmp_path / "second" / "tekken.json").read_bytes()


def test_tekken_json_loads_in_mistral_common_and_merges_as_trained(tmp_path: Path) -> None:
    content = train_tekken(TEXTS, vocab_size=340, num_special=40)
    tekken = Tekkenizer.from_file(write_tekken(content, tmp_path))
    assert tekken.n_words == 340
    for text in [*TEXTS[:5], "unseen: éß\t\n  x", "", "\x00\xff"]:
        assert tekken.decode(tekken.encode(text, bos=False, eos=False)) == text
    # Frequent words have become single tokens.
    assert len(tekken.encode("my card", bos=False, eos=False)) == 2
    assert [tekken.id_to_byte_piece(40 + rank) for rank in (0, 65, 255)] == [b"\x00", b"A", b"\xff"]
    with pytest.raises(TrainingError, match="lower vocab_size"):
        train_tekken(["ab"], vocab_size=1000, num_special=40)
    with pytest.raises(TrainingError, match="special tokens and 256"):
        train_tekken(TEXTS, vocab_size=300, num_special=60)


def test_chats_are_rendered_as_mistral_common_renders_them(tmp_path: Path) -> None:
    path = write_tekken(train_tekken(TEXTS, vocab_size=340, num_special=40), tmp_path)
    renderer, official = Renderer(path), MistralTokenizer.from_file(str(path))
    request = ChatCompletionRequest(
        messages=[
            SystemMessage(content="Be brief."),
            UserMessage(content="where is my card?"),
            AssistantMessage(content="lost_card"),
            UserMessage(content="thanks"),
        ]
    )
    ours = renderer.prompt([("where is my card?", "lost_card")], "thanks", system="Be brief.")
    assert ours == official.encode_chat_completion(request).tokens


def test_recipes_are_strict(recipe_file: Path, recipe: Recipe) -> None:
    assert load_recipe(recipe_file) == recipe
    text = recipe_file.read_text()
    recipe_file.write_text(text.replace("dropout:", "drop_out:", 1))
    with pytest.raises(ConfigError, match="drop_out"):
        load_recipe(recipe_file)
    recipe_file.write_text(text.replace("steps: 12", "steps: many"))
    with pytest.raises(ConfigError, match=r"steps"):
        load_recipe(recipe_file)
    recipe_file.write_text("a: [")
    with pytest.raises(ConfigError, match="not YAML"):
        load_recipe(recipe_file)


def test_shipped_recipes_load() -> None:
    recipes = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
    assert recipes
    for path in recipes:
        values = read_yaml(path)
        assert isinstance(values, dict)
        kind = FamilyRecipe if values.get("kind") == "family" else Recipe
        assert convert(values, kind, path).name == path.stem


RECIPES = Path(__file__).parents[2] / "recipes"
TASKS = ("photo", "scene", "digit", "transcription", "same", "series", "intent")
LABELLED = [f"{task}_label" for task in ("photo", "digit", "intent")]
GATED = [
    f"gate_{name}"
    for name in ("share", "correlation", "loss", "drawn_loss", "width_loss", "whole_loss", "gain", "error")
]
# As `judging` tells kinds apart.
KINDS = [
    *(f"scene_{ask.replace(' ', '_')}" for ask in ASKS),
    *(f"same_{language}_{verdict}" for language in LANGUAGES for verdict in ("equal", "other")),
    *(f"{task}_{language}" for task in ("digit", "series") for language in LANGUAGES),
]
FIGURES = [
    *(name for found in (TASKS, LABELLED, KINDS) for name in found),
    *(f"{name}_new_words" for name in (*TASKS, *LABELLED, *KINDS)),
    *GATED,
    "photo_large",
    *(f"{task}_embedding" for task in ("photo", "digit", "series")),
    "examples",
    "parameters",
    "bytes",
    "saved_parameters",
]


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("ostro-text-card.md", ["validation_questions", "intent_accuracy", "intent_accuracy_fifth_turn", "text_loss"]),
        ("ostro-nano-card.md", FIGURES),
        ("ostro-nano-edge-card.md", [*FIGURES, *(f"edge_{name}" for name in FIGURES)]),
    ],
)
def test_cards_have_places_for_figures_that_there_are(name: str, figures: list[str]) -> None:
    card = (RECIPES / name).read_text()
    assert "{" not in card.format(**dict.fromkeys(figures, 0.5))
    assert "50.0%" in card.format(**dict.fromkeys(figures, 0.5))


def test_shipped_family_recipes_have_cards() -> None:
    for path in sorted(RECIPES.glob("*.yaml")):
        values = read_yaml(path)
        assert isinstance(values, dict)
        if values.get("kind") == "family":
            recipe = convert(values, FamilyRecipe, path)
            assert recipe.card is not None
            assert recipe.edge is not None
            assert recipe.edge.card is not None
            assert all((RECIPES / card).is_file() for card in (recipe.card, recipe.edge.card))
