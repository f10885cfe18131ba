"""Batches as a function of (seed, step): no state, so that a resumed run sees what an unbroken one would."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch

from ostro.training.conversations import Renderer, Row, conversation
from ostro.training.data import Question
from ostro.training.recipe import Recipe


@dataclass(frozen=True)
class Batch:
    """Documents packed into rows of equal length, flattened: everything is [rows * length].

    Positions restart with each document; `segments_T` tells the documents of a row apart (padding is -1).
    """

    inputs_T: torch.Tensor
    targets_T: torch.Tensor
    weights_T: torch.Tensor
    positions_T: torch.Tensor
    segments_T: torch.Tensor
    rows: int

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        tensors: dict[str, Any] = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        return replace(self, **tensors)


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
        length = self._recipe.data.row_length
        rows = []
        for _ in range(max(1, self._recipe.train.tokens // length)):
            at = rng.randrange(max(1, len(self._text) - length))
            row = self._renderer.start()
            row.add(self._text[at : at + length], 1.0)
            rows.append(row)
        return pack(rows, self._renderer.special.pad, length)

    def _chat_batch(self, step: int, rng: random.Random) -> Batch:
        data = self._recipe.data
        drawn = [self._question(step * self._per_step + index) for index in range(self._per_step)]
        rows: list[Row] = []
        while drawn:
            turns = 1 if rng.random() < 0.5 else rng.randint(2, data.turns)
            rows.append(conversation(self._renderer, drawn[:turns], data, self._recipe.train.question_loss, rng))
            drawn = drawn[turns:]
        return pack(rows, self._renderer.special.pad, data.row_length)

    def _question(self, index: int) -> Question:
        epoch, at = divmod(index, len(self._questions))
        if self._order[0] != epoch:
            order = list(range(len(self._questions)))
            random.Random(f"{self._recipe.seed}/epoch/{epoch}").shuffle(order)
            self._order = (epoch, order)
        return self._questions[self._order[1][at]]


def pack(rows: list[Row], pad: int, length: int) -> Batch:
    """Put documents into rows of `length` tokens (or of the longest document), first fit, longest first.

    A token's target is the one after it, with that one's weight; what is left of a row is padding without weight.
    """
    rows = sorted((row for row in rows if len(row.tokens) > 1), key=lambda row: -len(row.tokens))
    length = max(length, len(rows[0].tokens) - 1)
    bins: list[list[Row]] = []
    room: list[int] = []
    for row in rows:
        size = len(row.tokens) - 1
        at = next((index for index, left in enumerate(room) if left >= size), None)
        if at is None:
            bins.append([])
            room.append(length)
            at = len(bins) - 1
        bins[at].append(row)
        room[at] -= size
    return _collate(bins, pad, length)


def _collate(bins: list[list[Row]], pad: int, length: int) -> Batch:
    inputs = torch.full((len(bins), length), pad)
    targets = torch.full((len(bins), length), pad)
    weights = torch.zeros((len(bins), length))
    positions = torch.zeros((len(bins), length), dtype=torch.int64)
    segments = torch.full((len(bins), length), -1)
    for index, documents in enumerate(bins):
        at = 0
        for document, row in enumerate(documents):
            part = slice(at, at + len(row.tokens) - 1)
            inputs[index, part] = torch.tensor(row.tokens[:-1])
            targets[index, part] = torch.tensor(row.tokens[1:])
            weights[index, part] = torch.tensor(row.weights[1:])
            positions[index, part] = torch.arange(len(row.tokens) - 1)
            segments[index, part] = document
            at = part.stop
    return Batch(
        inputs.flatten(), targets.flatten(), weights.flatten(), positions.flatten(), segments.flatten(), len(bins)
    )
