"""Examples are a function of (seed, step, index), answer what is shown, and keep validation apart."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from sense_data import CLASSES, CUSTOMERS, SENSES, SHARES, material, training_tasks

from ostro.core.errors import TrainingError
from ostro.media.senses import Senses
from ostro.training.senses.digits import DIGITS, WORDS
from ostro.training.senses.examples import Example, Picture, Sensed, develop, texts_of
from ostro.training.senses.photos import normalised
from ostro.training.senses.scenes import ASKS, parse
from ostro.training.senses.signals import KINDS
from ostro.training.senses.tasks import GROUPS, TASKS, Manner, Material, Tasks
from ostro.training.senses.wordings import DIGITS_ZH, QUESTIONS, SIGNALS_ZH, asked


def same(first: Example, second: Example) -> bool:
    def plain(example: Example) -> Any:
        parts = [part for message in example.messages for part in message.parts]
        arrays = [part.array.tobytes() if isinstance(part, Sensed) else part for part in parts]
        return arrays, [message.role for message in example.messages], dataclasses.replace(example, messages=())

    return bool(plain(first) == plain(second))


def words(example: Example) -> str:
    parts = example.messages[-1].parts if example.messages else ()
    return " ".join(part for part in parts if isinstance(part, str))


def right_comparison(example: Example, heard: str) -> str:
    """By the last number of the question, in whatever script: "the written one" is none."""
    numbers = {name: digit for names in ("0123456789", WORDS, DIGITS_ZH) for digit, name in enumerate(names)}
    read = [numbers[word] for word in re.split(r"[\s:：?？,，.。]+", words(example)) if word in numbers][-1]
    said = f"read {read}, heard {heard}: " if example.language == "en" else f"看到 {read}，听到 {heard}： "
    yes, no = ("yes", "no") if example.language == "en" else ("是", "不是")
    return said + (yes if str(read) == heard else no)


def heard_in_words(example: Example) -> str:
    """The digit that a text says was heard."""
    told = re.match(r"you hear (\w+)\.|听到的是 (\w+)。", words(example))
    assert told is not None
    said = told[1] or told[2]
    return next(str(digit) for names in (DIGITS, WORDS, DIGITS_ZH) for digit, name in enumerate(names) if name == said)


def test_examples_are_a_function_of_seed_step_and_index() -> None:
    first, again = training_tasks(3).examples(5, 40), training_tasks(3).examples(5, 40)
    assert all(map(same, first, again))
    for other in (training_tasks(4).examples(5, 40), training_tasks(3).examples(6, 40)):
        assert sum(map(same, first, other)) < 4
    assert {example.task for example in training_tasks(3).examples(0, 200)} == set(TASKS) == set(SHARES)


@pytest.mark.parametrize("training", [True, False])
def test_answers_are_true_of_what_is_shown(training: bool) -> None:
    made = material()
    labels = made.labels
    tasks = Tasks(made, SHARES, seed=0, manner=Manner(training))
    seen: Counter[str] = Counter()
    for example in tasks.examples(0, 600):
        task, own = example.task, {group: label for group, label in example.labels.items() if label is not None}
        seen[f"{task}/{example.language}"] += 1
        assert all(label in labels[group] for group, label in own.items())
        assert words(example).strip() or task in ("text", "transcription")
        if task in ("photo", "scene"):
            assert example.scene is not None
            assert example.ask is not None
            assert parse(example.answer, example.language, example.ask, example.scene) is not None
            assert example.modalities == ("image",)
            classes = {cell for cell in example.scene.cells if cell}
            assert own.get("photo", "several") in (classes if len(classes) == 1 else {"several"})
            assert ("photo" in example.labels) == (len(classes) == 1)
        elif task == "told_scene":
            assert example.scene is not None
            assert example.ask not in (None, "describe")
            assert parse(example.answer, example.language, example.ask, example.scene) is not None
            assert example.modalities == ()
            assert own == {}
        elif task == "told_same":
            assert example.modalities == ()
            assert example.answer == right_comparison(example, heard_in_words(example))
        elif task in ("digit", "transcription", "same"):
            digit = own["digit"]
            assert digit is not None
            assert example.caption == f"the spoken digit {WORDS[int(digit)]}"
            plain = {"digit": digit, "transcription": WORDS[int(digit)]}
            assert example.answer == (plain[task] if task in plain else right_comparison(example, digit))
            assert example.modalities == ("audio",)
        elif task == "series":
            kind = own["series"]
            assert kind in KINDS
            assert example.answer == (kind if example.language == "en" else SIGNALS_ZH[kind])
        elif task == "intent":
            assert own == {"intent": example.answer}
        if task not in ("scene", "told_scene", "told_same", "text"):
            assert set(example.labels) == set(GROUPS)
            assert len(own) == 1, "what it is not about it holds none of"
    worded = set(SHARES) - {"text", "transcription"}
    assert min(seen[f"{task}/{language}"] for task in worded for language in ("en", "zh")) > 5


def test_who_asks_whether_numbers_agree_gets_both_answers() -> None:
    made = training_tasks(shares={"same": 1.0}).examples(0, 300)
    answers = Counter(re.split("[:：] ?", example.answer)[1] for example in made)
    assert set(answers) == {"yes", "no", "是", "不是"}
    assert min(answers.values()) > 20


def test_scenes_are_asked_about_several_times_in_training() -> None:
    """Each answer is one about the same scene, and the picture is shown once."""
    made = training_tasks(shares={"scene": 1.0}).examples(0, 80)
    turns = Counter(sum(message.role == "assistant" for message in example.messages) for example in made)
    assert set(turns) == {0, 1, 2, 3}
    for example in made:
        assert sum(isinstance(part, Sensed) for message in example.messages for part in message.parts) == 1
        for message in example.messages:
            if message.role == "assistant":
                assert example.scene is not None
                (said,) = message.parts
                assert isinstance(said, str)
                assert any(parse(said, example.language, ask, example.scene) is not None for ask in ASKS)
                assert message.labels == example.labels
    once = Tasks(material(), {"scene": 1.0}, seed=0, manner=Manner(training=False)).examples(0, 40)
    assert all(len(example.messages) == 1 for example in once)


def test_questions_of_customers_are_split_as_often_as_the_recipe_says() -> None:
    customers = msgspec.structs.replace(CUSTOMERS, splits=0.25)
    tasks = Tasks(material(customers=customers), {"intent": 1.0, "digit": 1.0}, seed=0, manner=Manner(training=True))
    for example in tasks.examples(0, 40):
        assert (example.splits is not None) == (example.task == "intent")
        assert example.splits is None or example.splits[0] == 0.25


def test_scenes_to_train_on_hold_nothing_that_is_held_out() -> None:
    made = material()
    scenes = [example.scene for example in training_tasks(shares={"scene": 1.0}).examples(0, 500)]
    made.held_out.check(scene for scene in scenes if scene is not None)
    validation = Tasks(made, {"scene": 1.0}, seed=0, manner=Manner(training=False)).examples(0, 200)
    for example in validation:
        assert example.scene is not None
        assert made.held_out.of(example.scene)


def test_validation_shows_things_as_they_are() -> None:
    made = material()
    tasks = Tasks(made, {"photo": 1.0, "digit": 1.0, "intent": 1.0}, seed=0, manner=Manner(training=False))
    assert made.photos is not None
    photos = {image.tobytes() for image in normalised(made.photos.images)}
    sounds = {mel.tobytes() for mel in made.mels}
    asked_plainly = {question.text for question in made.questions}
    for example in tasks.examples(0, 100):
        for part in example.messages[-1].parts:
            if isinstance(part, Sensed):
                assert part.array.tobytes() in (photos if part.modality == "image" else sounds)
        assert len(example.messages) == 1
        if example.task == "intent":
            assert any(text in words(example) for text in asked_plainly)


def test_training_shows_things_changed() -> None:
    made = material()
    assert made.photos is not None
    known = {image.tobytes() for image in normalised(made.photos.images)} | {mel.tobytes() for mel in made.mels}
    asked_plainly = {question.text for question in made.questions}
    tasks = Tasks(made, {"photo": 1.0, "digit": 1.0, "intent": 1.0}, seed=0, manner=Manner(training=True))
    changed: dict[str, list[bool]] = {"image": [], "audio": [], "intent": []}
    for example in tasks.examples(0, 300):
        for part in example.messages[-1].parts:
            if isinstance(part, Sensed):
                changed[part.modality].append(part.array.tobytes() not in known)
        if example.task == "intent":
            changed["intent"].append(not any(text in words(example) for text in asked_plainly))
    shares = {name: sum(found) / len(found) for name, found in changed.items()}
    assert shares["image"] > 0.95
    assert 0.6 < shares["audio"] < 1.0, "some are as they are"
    assert shares["intent"] > 0.4


def test_single_photos_are_enlarged_in_a_share_of_training_and_where_that_is_asked() -> None:
    """To as large as the model sees any: the photos that people have are larger than those of the data."""
    made = material()

    def shapes(manner: Manner, task: str = "photo") -> Counter[tuple[int, ...]]:
        examples = Tasks(made, {task: 1.0}, seed=0, manner=manner).examples(0, 200)
        return Counter(part.array.shape[1:] for one in examples for part in one.messages[-1].parts if _is_seen(part))

    assert set(shapes(Manner(training=False))) == {(16, 16)}
    large = shapes(Manner(training=False, large=True))
    assert {max(shape) for shape in large} == {64}
    assert {min(shape) for shape in large} == {32, 40, 48, 56, 64}
    assert len(large) == 9, "upright and lying"
    mixed = shapes(Manner(training=True))
    assert 0.2 < 1 - mixed[16, 16] / sum(mixed.values()) < 0.4
    assert max(max(shape) for shape in shapes(Manner(training=True), "scene")) == 32
    (example,) = Tasks(made, {"photo": 1.0}, seed=0, manner=Manner(training=False, large=True)).examples(0, 1)
    seen = next(part for part in example.messages[-1].parts if isinstance(part, Sensed))
    assert seen.grid == tuple(side // 8 for side in seen.array.shape[1:])


def _is_seen(part: object) -> bool:
    return isinstance(part, Sensed) and part.modality == "image"


def test_wordings_that_are_held_out_are_never_trained_on() -> None:
    for by_language in QUESTIONS.values():
        for wordings in by_language.values():
            assert not set(wordings.trained) & set(wordings.held)
            assert wordings.held
            assert len(set(wordings.trained)) == len(wordings.trained) >= 5
    held = Tasks(material(), SHARES, seed=0, manner=Manner(training=False, held_wordings=True)).examples(0, 300)
    plain = {
        name: by["en"].held + by["zh"].held for name, by in QUESTIONS.items() if name in ("describe", "digit", "series")
    }
    for example in held:
        text = words(example)
        if example.task in ("digit", "series"):
            assert any(text.strip("?？.。").lower() == one.lower() for one in plain[example.task])
    trained = {words(example).lower() for example in training_tasks().examples(0, 600)}
    for wordings in plain.values():
        assert not any(one.lower() in text for one in wordings for text in trained)


@pytest.mark.parametrize(
    ("name", "language", "text"),
    [
        ("describe", "en", "describe this image"),
        ("describe", "zh", "描述这张图片"),
        ("digit", "en", "what digit is spoken"),
        ("digit", "zh", "说的是哪个数字"),
        ("intent", "en", "what does the customer want: {text}"),
        ("same", "en", "is it the same number that you hear and read: {shown}"),
        ("what", "en", "what is {place}"),
        ("where", "en", "where is the {name}"),
        ("how many", "en", "how many {many} are there"),
    ],
)
def test_what_people_are_told_to_ask_is_trained_on(name: str, language: Any, text: str) -> None:
    assert text in QUESTIONS[name][language].trained


def test_some_conversations_begin_with_a_system_prompt() -> None:
    shares = {name: share for name, share in SHARES.items() if name not in ("text", "transcription")}
    roles = Counter(example.messages[0].role for example in training_tasks(shares=shares).examples(0, 400))
    assert roles["system"] / roles.total() == pytest.approx(0.3, abs=0.08)
    plain = Tasks(material(), SHARES, seed=0, manner=Manner(training=False)).examples(0, 200)
    assert {example.messages[0].role for example in plain if example.messages} == {"user"}
    turns = [len(example.messages) for example in training_tasks(shares={"intent": 1.0}).examples(0, 300)]
    assert max(turns) > 8
    assert np.mean([count <= 2 for count in turns]) > 0.4


def test_questions_are_typed_in_several_ways() -> None:
    import random

    rng = random.Random(0)
    assert {asked(rng, "en", "what is it") for _ in range(100)} >= {"what is it", "What is it?", "what is it."}
    assert {asked(rng, "zh", "这是什么") for _ in range(100)} == {"这是什么", "这是什么？", "这是什么。"}


def test_pictures_are_laid_out_place_by_place() -> None:
    made = material()
    assert made.photos is not None
    assert SENSES.image is not None
    example = training_tasks(shares={"photo": 1.0}).examples(0, 1)[0]
    picture = Picture(2, 2, (3, None, 5, 0), blank=(255, 0, 0))
    message = dataclasses.replace(example.messages[0], parts=("what", picture))
    (done,) = develop([dataclasses.replace(example, messages=(message,))], made.photos, SENSES.image, None)
    sensed = done.messages[0].parts[1]
    assert isinstance(sensed, Sensed)
    assert sensed.array.shape == (3, 32, 32)
    assert sensed.grid == (4, 4)
    expected = np.full((32, 32, 3), (255, 0, 0), dtype=np.uint8)
    for number, row, column in ((3, 0, 0), (5, 1, 0), (0, 1, 1)):
        expected[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16] = made.photos.images[number]
    np.testing.assert_array_equal(sensed.array, normalised(expected[None])[0])


def test_a_vocabulary_learns_from_what_is_said_in_examples() -> None:
    made = training_tasks().examples(0, 50)
    texts = list(texts_of(made))
    assert {example.answer for example in made} | {
        words(example) for example in made if example.task == "digit"
    } <= set(texts)
    assert all(isinstance(text, str) for text in texts)


def test_the_labels_of_a_model_are_those_of_its_material() -> None:
    labels = material().labels
    assert list(labels) == ["photo", "digit", "series", "intent"]
    assert labels["photo"] == CLASSES
    assert labels["intent"] == ("card_lost", "pin_lost")
    assert "photo" not in Material(SENSES, text="x").labels


def test_tasks_without_material_are_refused() -> None:
    bare = Material(Senses(), text="some text", customers=CUSTOMERS)
    for name in TASKS:
        if name != "text":
            with pytest.raises(TrainingError, match=f"no material for the task '{name}'"):
                Tasks(bare, {name: 1.0}, seed=0, manner=Manner(training=True))
    with pytest.raises(TrainingError, match="no task 'smell'"):
        Tasks(bare, {"smell": 1.0}, seed=0, manner=Manner(training=True))
    with pytest.raises(TrainingError, match="sense 'audio', which the model does not have"):
        Material(Senses(), utterances=material().utterances)
    two = Tasks(bare, {"text": 1}, seed=0, manner=Manner(training=True)).examples(0, 2)
    assert [example.answer for example in two] == ["some text"] * 2
    with pytest.raises(TrainingError, match="no whole tokens of 8"):
        training_tasks(shares={"photo": 1.0}, side=12).examples(0, 1)
