"""Measures a model on what it has not seen: answers by greedy generation, text by its loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ostro.core.errors import TrainingError
from ostro.models.layers.context import DenseContext
from ostro.models.layers.decoder import Decoder
from ostro.training.conversations import Renderer
from ostro.training.data import Question

# Longer than any label; an answer that is not done by then is wrong.
MAX_ANSWER = 24


def answer_all(model: Decoder, prompts: Sequence[Sequence[int]], eos: int, batch: int = 64) -> list[list[int]]:
    """Greedy answers without a cache, prompts of equal length together. The end token is not part of an answer."""
    answers: list[list[int]] = [[] for _ in prompts]
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(index)
    for indices in by_length.values():
        for start in range(0, len(indices), batch):
            _answer(model, prompts, answers, indices[start : start + batch], eos)
    return answers


def _answer(
    model: Decoder, prompts: Sequence[Sequence[int]], answers: list[list[int]], indices: list[int], eos: int
) -> None:
    active = list(indices)
    for _ in range(MAX_ANSWER):
        rows = torch.tensor([[*prompts[index], *answers[index]] for index in active])
        count, length = rows.shape
        with torch.inference_mode():
            hidden = model(rows.flatten(), torch.arange(length).repeat(count), DenseContext(count))
            best = model.logits(hidden.view(count, length, -1)[:, -1]).argmax(-1).tolist()
        for index, token in zip(active, best, strict=True):
            if token != eos:
                answers[index].append(token)
        active = [index for index, token in zip(active, best, strict=True) if token != eos]
        if not active:
            return
    for index in active:
        answers[index].append(-1)  # Never ended: no label.


def intent_accuracy(model: Decoder, renderer: Renderer, questions: Sequence[Question]) -> float:
    """Share of questions whose whole answer is exactly the label, each asked in a chat of its own."""
    prompts = [renderer.prompt([], question.text) for question in questions]
    answers = answer_all(model, prompts, renderer.special.eos)
    right = [answer == renderer.encode(q.label) for answer, q in zip(answers, questions, strict=True)]
    return sum(right) / len(right)


def conversation_accuracy(model: Decoder, renderer: Renderer, questions: Sequence[Question], turns: int = 5) -> float:
    """Share of right answers to the last of `turns` questions in one chat, the earlier ones answered rightly."""
    prompts = []
    for index in range(len(questions)):
        earlier = [questions[(index + 97 * k) % len(questions)] for k in range(1, turns)]
        prompts.append(renderer.prompt([(q.text, q.label) for q in earlier], questions[index].text))
    answers = answer_all(model, prompts, renderer.special.eos, batch=32)
    right = [answer == renderer.encode(q.label) for answer, q in zip(answers, questions, strict=True)]
    return sum(right) / len(right)


def text_loss(model: Decoder, renderer: Renderer, text: str, length: int = 256) -> float:
    """Mean cross-entropy per token (nats) over windows of `length` tokens, or over all there are."""
    tokens = renderer.encode(text)
    if not tokens:
        raise TrainingError("The held-out text is empty, so there is nothing to measure; raise `validation`.")
    length = min(length, len(tokens))
    losses = []
    for start in range(0, max(1, len(tokens) - length), length):
        ids = torch.tensor([renderer.special.bos, *tokens[start : start + length]])
        with torch.inference_mode():
            hidden = model(ids[:-1], torch.arange(length), DenseContext())
            losses.append(F.cross_entropy(model.logits(hidden).float(), ids[1:]).item())
    return sum(losses) / len(losses)
