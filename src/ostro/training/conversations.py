"""Renders questions as chats, the way mistral-common does, with a weight for every token to be predicted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ostro.training.data import Question
from ostro.training.recipe import DataRecipe

SYSTEM_PROMPTS = (
    "Name the intent of the customer's question.",
    "You are a helpful assistant.",
    "You sort the questions of a bank's customers by intent. Answer with the intent's label only.",
    "Classify the message.",
    "You work for a bank.",
)

# Turns that ask nothing new: the intent stays what it was.
FOLLOW_UPS = (
    "thanks", "Thank you!", "ok", "Okay, thanks.", "Can you repeat that?", "Please repeat.", "Which one was it?",
    "What was my question about?", "Are you sure?", "Really?", "Say that again please", "Sorry, what?",
    "I did not get that.", "What did you say?", "Could you tell me the intent again?", "And the label?",
    "What is the intent?", "Which intent is this?", "Please answer again.", "Once more please", "I see.", "Got it.",
    "Alright", "Hmm", "What category is that?", "Name the category again.", "Is that right?", "Please confirm.",
    "Can you confirm that?", "I am still waiting for your answer.", "Hello?", "Are you there?", "yes", "Yes please.",
    "right", "Good.", "Great, thanks a lot!", "Fine, but what was it again?", "Remind me what this is about.",
    "What were we talking about?", "So what is it?", "Tell me once more.", "As I said.", "That is what I asked.",
    "Same question as before.", "I asked that already.", "Still the same problem.", "Any news?", "Go on.",
    "What do you think it is?",
)  # fmt: skip


@dataclass(frozen=True)
class Special:
    """Ids of the control tokens that a chat is rendered with."""

    bos: int
    eos: int
    begin_inst: int
    end_inst: int
    begin_system: int
    end_system: int
    pad: int


@dataclass
class Row:
    """Tokens, and for each the weight of predicting it (0: only read)."""

    tokens: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(self, tokens: Sequence[int], weight: float) -> None:
        self.tokens += tokens
        self.weights += [weight] * len(tokens)


class Renderer:
    """Encodes with the vocabulary of a tekken.json."""

    def __init__(self, path: Path) -> None:
        from mistral_common.tokens.tokenizers.tekken import Tekkenizer

        self._tekken = Tekkenizer.from_file(path)
        token = self._tekken.get_special_token
        self.special = Special(
            bos=token("<s>"),
            eos=token("</s>"),
            begin_inst=token("[INST]"),
            end_inst=token("[/INST]"),
            begin_system=token("[SYSTEM_PROMPT]"),
            end_system=token("[/SYSTEM_PROMPT]"),
            pad=token("<pad>"),
        )

    def encode(self, text: str) -> list[int]:
        return self._tekken.encode(text, bos=False, eos=False)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text without control tokens."""
        return self._tekken.decode([token for token in tokens if token >= self._tekken.num_special_tokens])

    def start(self, system: str | None = None) -> Row:
        row = Row()
        row.add([self.special.bos], 0.0)
        if system is not None:
            row.add([self.special.begin_system, *self.encode(system), self.special.end_system], 0.0)
        return row

    def ask(self, row: Row, question: str, weight: float = 0.0) -> None:
        """A user's turn. `weight` is for the question's own words; control tokens are never predicted."""
        row.add([self.special.begin_inst], 0.0)
        row.add(self.encode(question), weight)
        row.add([self.special.end_inst], 0.0)

    def answer(self, row: Row, label: str) -> None:
        """The assistant's turn: the label and the end of the sequence, both to be predicted."""
        row.add([*self.encode(label), self.special.eos], 1.0)

    def prompt(self, questions: Sequence[tuple[str, str]], last: str, system: str | None = None) -> list[int]:
        """What the model sees when it is to answer `last` after earlier (question, answer) turns."""
        row = self.start(system)
        for question, label in questions:
            self.ask(row, question)
            self.answer(row, label)
        self.ask(row, last)
        return row.tokens


def conversation(
    renderer: Renderer, questions: Sequence[Question], data: DataRecipe, question_loss: float, rng: random.Random
) -> Row:
    """One chat over these questions in turn, with follow-ups between them that change nothing."""
    system = rng.choice(SYSTEM_PROMPTS) if rng.random() < data.system else None
    row = renderer.start(system)
    for question in questions:
        renderer.ask(row, augment(question.text, data, rng), question_loss)
        renderer.answer(row, question.label)
        while rng.random() < data.follow_up:
            renderer.ask(row, rng.choice(FOLLOW_UPS))
            renderer.answer(row, question.label)
    return row


def augment(text: str, data: DataRecipe, rng: random.Random) -> str:
    """Leave words out, make typing errors, change case and final punctuation: what customers do."""
    words = text.split()
    kept = [word for word in words if rng.random() >= data.word_dropout] or words
    kept = [_typo(word, rng) if rng.random() < data.typos else word for word in kept]
    text = " ".join(kept)
    style = rng.random()
    if style < 0.15:
        text = text.lower()
    elif style < 0.18:
        text = text.upper()
    if rng.random() < 0.15:
        text = text.rstrip("?.!")
    return text


def _typo(word: str, rng: random.Random) -> str:
    if len(word) < 4:
        return word
    at = rng.randrange(len(word) - 1)
    kind = rng.randrange(3)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + word[at + 1 :] if kind == 1 else word[:at] + word[at] + word[at:]
