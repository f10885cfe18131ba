"""Reads training data, and splits off what training never sees."""

from __future__ import annotations

import csv
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ostro.core.errors import TrainingError


@dataclass(frozen=True)
class Question:
    """A customer's question and the label that answers it."""

    text: str
    label: str


@dataclass(frozen=True)
class Split:
    """Disjoint parts."""

    train: tuple[Question, ...]
    validation: tuple[Question, ...]


def read_questions(path: Path, labels: tuple[str, ...]) -> tuple[Question, ...]:
    """A CSV with the columns text and category. Raises TrainingError naming the bad line."""
    known = set(labels)
    questions: list[Question] = []
    with _open(path) as file:
        reader = csv.DictReader(file)
        if reader.fieldnames is None or not {"text", "category"} <= set(reader.fieldnames):
            raise TrainingError(f"{path}: expected the columns text and category, found {reader.fieldnames}.")
        for row in reader:
            text, label = (row["text"] or "").strip(), (row["category"] or "").strip()
            if not text:
                raise TrainingError(f"{path}, line {reader.line_num}: the text is empty.")
            if label not in known:
                raise TrainingError(f"{path}, line {reader.line_num}: the category {label!r} is not among the labels.")
            questions.append(Question(text, label))
    if not questions:
        raise TrainingError(f"{path} holds no questions.")
    return tuple(questions)


def read_labels(path: Path) -> tuple[str, ...]:
    """A JSON list of names."""
    with _open(path) as file:
        try:
            labels = json.load(file)
        except ValueError as error:
            raise TrainingError(f"{path} is not JSON: {error}.") from error
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise TrainingError(f"{path} must hold a list of label names.")
    return tuple(labels)


def read_text(path: Path) -> str:
    with _open(path) as file:
        return file.read()


def split_questions(questions: tuple[Question, ...], share: float, seed: int) -> Split:
    """Hold out `share` of every label's questions, at least one. Texts that occur twice stay on one side."""
    rng = random.Random(seed)
    by_label: dict[str, list[str]] = {}
    for question in questions:
        texts = by_label.setdefault(question.label, [])
        if question.text not in texts:
            texts.append(question.text)
    train: list[Question] = []
    validation: list[Question] = []
    for label in sorted(by_label):
        texts = by_label[label]
        rng.shuffle(texts)
        count = max(1, round(share * len(texts)))
        validation += [Question(text, label) for text in texts[:count]]
        train += [Question(text, label) for text in texts[count:]]
    held_out = {question.text for question in validation}
    return Split(tuple(q for q in train if q.text not in held_out), tuple(validation))


def split_text(text: str, share: float) -> tuple[str, str]:
    """The beginning to train on, the end to measure on, cut between lines."""
    at = text.rfind("\n", 0, round(len(text) * (1 - share))) + 1
    return text[:at], text[at:]


def _open(path: Path) -> IO[str]:
    try:
        return path.open(encoding="utf-8", newline="")
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error.strerror}. Give the data folder with --data.") from error
