"""Batches as a function of (seed, step): no state, so that a resumed run sees what an unbroken one would."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from ostro.training.conversations import Renderer, Row, conversation
from ostro.training.data import Question
from ostro.training.recipe import Recipe

# Steps whose questions are sorted by length together.
WINDOW = 8


@dataclass(frozen=True)
class Batch:
    """Rows of equal length, flattened: inputs, targets and weights [rows * length], positions restart in each row."""

    inputs_T: torch.Tensor
    targets_T: torch.Tensor
    weights_T: torch.Tensor
    positions_T: torch.Tensor
    rows: int


class Batches:
    """Every question once an epoch, in a new order and new company each time; steps on plain text in between."""

    def __init__(self, recipe: Recipe, renderer: Renderer, questions: tuple[Question, ...], text: str) -> None:
        self._recipe = recipe
        self._renderer = renderer
        self._questions = questions
        self._text = renderer.encode(text)
        # A question with its answer is about this long; the batch's size in questions follows from it.
        lengths = [len(renderer.encode(question.text)) for question in questions[:500]]
        self._per_step = max(1, round(recipe.train.tokens / (sum(lengths) / len(lengths) + 9)))

        self._order: tuple[int, list[int]] = (-1, [])

    def batch(self, step: int) -> Batch:
        rng = random.Random(f"{self._recipe.seed}/{step}")
        # Text steps are spread evenly, by the fractional part of step * share.
        share = self._recipe.data.text_share
        if int((step + 1) * share) > int(step * share):
            return self._text_batch(rng)
        return self._chat_batch(step - int(step * share), rng)

    def _text_batch(self, rng: random.Random) -> Batch:
        length = self._recipe.data.text_length
        rows = []
        for _ in range(max(1, self._recipe.train.tokens // length)):
            at = rng.randrange(max(1, len(self._text) - length))
            row = self._renderer.start()
            row.add(self._text[at : at + length], 1.0)
            rows.append(row)
        return collate(rows, self._renderer.special.pad)

    def _chat_batch(self, step: int, rng: random.Random) -> Batch:
        """Conversations of one number of turns over questions of similar length, so that little is padding."""
        data = self._recipe.data
        turns = 1 if rng.random() < 0.4 else rng.randint(2, data.turns)
        drawn = self._similar(step)
        rng.shuffle(drawn)
        rows = [
            conversation(self._renderer, drawn[at : at + turns], data, self._recipe.train.question_loss, rng)
            for at in range(0, len(drawn), turns)
        ]
        return collate(rows, self._renderer.special.pad)

    def _similar(self, step: int) -> list[Question]:
        """This step's share of a window of the epoch's order that is sorted by length."""
        window, part = divmod(step, WINDOW)
        size = WINDOW * self._per_step
        drawn = [self._question(window * size + index) for index in range(size)]
        drawn.sort(key=lambda question: (len(question.text), question.text))
        parts = list(range(WINDOW))
        random.Random(f"{self._recipe.seed}/window/{window}").shuffle(parts)
        start = parts[part] * self._per_step
        return drawn[start : start + self._per_step]

    def _question(self, index: int) -> Question:
        epoch, at = divmod(index, len(self._questions))
        if self._order[0] != epoch:
            order = list(range(len(self._questions)))
            random.Random(f"{self._recipe.seed}/epoch/{epoch}").shuffle(order)
            self._order = (epoch, order)
        return self._questions[self._order[1][at]]


def collate(rows: list[Row], pad: int) -> Batch:
    """Pad on the right; a token's target is the one after it, with that one's weight."""
    length = max(len(row.tokens) for row in rows) - 1
    inputs = torch.full((len(rows), length), pad)
    targets = torch.full((len(rows), length), pad)
    weights = torch.zeros((len(rows), length))
    for index, row in enumerate(rows):
        count = len(row.tokens) - 1
        inputs[index, :count] = torch.tensor(row.tokens[:-1])
        targets[index, :count] = torch.tensor(row.tokens[1:])
        weights[index, :count] = torch.tensor(row.weights[1:])
    positions = torch.arange(length).repeat(len(rows))
    return Batch(inputs.flatten(), targets.flatten(), weights.flatten(), positions, len(rows))
