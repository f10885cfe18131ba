"""Answers are judged by what they say, and by kind, so that no mean hides what a model cannot do."""

from __future__ import annotations

from dataclasses import replace

from sense_data import training_tasks

from ostro.core.request import LabelScore
from ostro.training.judging import Answer, judge
from ostro.training.senses.examples import Example


def examples(task: str, count: int = 60) -> list[Example]:
    return training_tasks(shares={task: 1.0}).examples(0, count)


def told(example: Example) -> Answer:
    """The right answer, with the right labels first."""
    labels = [LabelScore(label, 0.9, group) for group, label in example.labels.items() if label is not None]
    return Answer(f" {example.answer}\n", labels)


def test_right_answers_are_right_in_every_kind() -> None:
    for task in ("photo", "scene", "digit", "same", "series", "intent"):
        made = examples(task)
        found = judge(made, [told(example) for example in made])
        assert set(found.values()) == {1.0}
        assert {task, f"{task}_en", f"{task}_zh"} <= set(found)
    assert {
        f"scene_{kind}" for kind in ("describe", "what", "where", "how_many", "how_many_photos", "is_there")
    } <= set(judge(*zip(*[(one, told(one)) for one in examples("scene", 200)], strict=True)))


def test_a_model_that_always_says_no_is_seen_through() -> None:
    made = examples("same", 200)
    no = {"en": ("yes", "no"), "zh": (" 是", " 不是")}
    answers = []
    for example in made:
        yes, never = no[example.language]
        text = (
            example.answer.removesuffix(never) if example.answer.endswith(never) else example.answer.removesuffix(yes)
        )
        answers.append(Answer(text + never))
    found = judge(made, answers)
    assert 0.3 < found["same"] < 0.7
    assert (found["same_equal"], found["same_other"]) == (0.0, 1.0)
    assert (found["same_zh_equal"], found["same_en_other"]) == (0.0, 1.0)


def test_wrong_text_and_wrong_labels_are_told_apart() -> None:
    (example,) = examples("digit", 1)
    right = told(example)
    assert judge([example], [replace(right, text="eleven")]) == {
        "digit": 0.0,
        f"digit_{example.language}": 0.0,
        "digit_label": 1.0,
    }
    wrong = [LabelScore("none of them", 0.95, "digit"), *right.labels]
    assert judge([example], [replace(right, labels=wrong)])["digit_label"] == 0.0


def test_transcriptions_have_no_language_of_their_own() -> None:
    made = examples("transcription", 5)
    assert set(judge(made, [told(example) for example in made])) == {"transcription", "transcription_label"}
