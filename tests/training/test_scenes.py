"""Scenes: answers parse back to what was asked, and what is held out is never trained on."""

from __future__ import annotations

import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostro.core.errors import TrainingError
from ostro.training.senses.scenes import (
    ASKS,
    LANGUAGES,
    LAYOUTS,
    Ask,
    Combination,
    HeldOut,
    Language,
    Scene,
    answer,
    combinations_of,
    draw_scene,
    parse,
)

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HELD_OUT = HeldOut(CLASSES)


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    layout = draw(st.integers(0, len(LAYOUTS) - 1))
    places = len(LAYOUTS[layout].en)
    cells = draw(st.lists(st.sampled_from(CLASSES), min_size=places, max_size=places))
    empty = draw(st.integers(0, places)) if places > 1 else places
    return Scene(layout, tuple(None if place == empty else cell for place, cell in enumerate(cells)))


@settings(max_examples=200, deadline=None)
@given(scene=scenes(), language=st.sampled_from(LANGUAGES), name=st.sampled_from(CLASSES), data=st.data())
def test_every_answer_parses_back(scene: Scene, language: Language, name: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(scene.cells) - 1))
    expected: dict[Ask, tuple[str | int | None, object]] = {
        "describe": (None, scene),
        "what": (place, scene.cells[place] or ""),
        "where": (name, tuple(i for i, cell in enumerate(scene.cells) if cell == name)),
        "how many": (name, scene.cells.count(name)),
        "how many photos": (None, sum(cell is not None for cell in scene.cells)),
        "is there": (name, name in scene.cells),
    }
    assert set(expected) == set(ASKS)
    for ask, (about, meaning) in expected.items():
        said = answer(scene, language, ask, about)
        found = parse(said, language, ask, scene)
        assert found == meaning
        assert type(found) is type(meaning)
        for wrong in (said + " x", said[:-1], "", said.upper(), said.replace(" ", "  ") + "."):
            assert wrong == said or parse(wrong, language, ask, scene) != meaning


def test_answers_read_well() -> None:
    four = Scene(3, ("cat", None, "ship", "airplane"))
    for language, ask, about, said in (
        ("en", "describe", None, "three photos: a cat at the top left, nothing at the top right, a ship at the bottom "
         "left, an airplane at the bottom right"),
        ("zh", "describe", None, "三张照片：左上是 cat，右上是空的，左下是 ship，右下是 airplane"),
        ("en", "what", 1, "nothing"), ("zh", "what", 0, "cat"), ("en", "where", "ship", "at the bottom left"),
        ("zh", "where", "dog", "没有"), ("en", "how many", "cat", "one"), ("zh", "how many", "cat", "一个"),
        ("en", "how many photos", None, "three"), ("zh", "how many photos", None, "三张"),
        ("en", "is there", "dog", "no"), ("zh", "is there", "ship", "有"), ("en", "how many", "dog", "none"),
    ):  # fmt: skip
        assert answer(four, language, ask, about) == said  # type: ignore[arg-type]  # a parameter of the test
    both = Scene(1, ("dog", "dog"))
    assert answer(both, "en", "where", "dog") == "on the left and on the right"
    assert answer(Scene(0, ("deer",)), "en", "describe") == "one photo: a deer"


@pytest.mark.parametrize(
    ("ask", "text"),
    [
        ("describe", "two photos: a cat on the left"),
        ("describe", "three photos: a cat on the left, a dog on the right"),
        ("describe", "two photos: a cat on the right, a dog on the left"),
        ("describe", "one photo: an cat"),
        ("describe", "a cat"),
        ("what", "a cat and a dog"),
        ("where", "at the top"),
        ("where", "on the right and on the left"),
        ("how many", "five"),
        ("is there", "maybe"),
    ],
)
def test_what_is_no_answer_is_none(ask: Ask, text: str) -> None:
    assert parse(text, "en", ask, Scene(1, ("cat", "dog"))) is None


def test_no_combination_that_is_held_out_is_trained_on() -> None:
    """By drawing many, and by counting all that there are."""
    rng = random.Random(0)
    train = [draw_scene(rng, CLASSES, HELD_OUT, training=True) for _ in range(4000)]
    validation = [draw_scene(rng, CLASSES, HELD_OUT, training=False) for _ in range(1000)]
    HELD_OUT.check(train)
    trained = set().union(*map(combinations_of, train))
    kept = set().union(*map(HELD_OUT.of, validation))
    assert not trained & kept
    assert not any(HELD_OUT.holds(one) for one in trained)
    assert all(HELD_OUT.of(scene) for scene in validation)
    with pytest.raises(TrainingError, match="holds a combination that is held out"):
        HELD_OUT.check([*train, validation[0]])
    # All pairs of two photos side by side: a tenth is held out, the others are trained on.
    pairs = {Scene(1, both) for both in product(CLASSES, repeat=2)}
    held = {scene for scene in pairs if HELD_OUT.of(scene)}
    assert 10 <= len(held) <= 14, "of pairs one in ten, and one in five of those of one class"
    assert pairs - held <= set(train)
    assert len({scene.cells[0] for scene in held}) == len({scene.cells[1] for scene in held}) == 10


def test_training_shows_every_class_in_every_place_and_number() -> None:
    rng = random.Random(1)
    train = [draw_scene(rng, CLASSES, HELD_OUT, training=True) for _ in range(4000)]
    seen = {(scene.layout, place, cell) for scene in train for place, cell in enumerate(scene.cells)}
    for layout, shape in enumerate(LAYOUTS):
        for place, name in product(range(len(shape.en)), CLASSES):
            assert (layout, place, name) in seen
    assert {scene.photos for scene in train} == {1, 2, 3, 4}
    assert {scene.count(name) for scene in train for name in CLASSES} == {0, 1, 2, 3, 4}


def test_the_rule_is_a_function_of_the_classes_alone() -> None:
    scene = Scene(3, ("cat", "dog", "ship", "frog"))
    assert HeldOut(CLASSES).of(scene) == HELD_OUT.of(scene)
    first, again = ([draw_scene(random.Random(3), CLASSES, HELD_OUT, training=True)] * 5 for _ in range(2))
    assert first == again

    class Nothing(HeldOut):
        def holds(self, combination: Combination) -> bool:
            return False

    with pytest.raises(TrainingError, match="no scenes to validate with"):
        draw_scene(random.Random(0), CLASSES, Nothing(CLASSES), training=False)
