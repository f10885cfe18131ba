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

# Turns that ask nothing new: the intent stays what it was. Put together of an opener, a core and a closer, so that
# what is learnt is the kind of turn, not a list of sentences.
OPENERS = (
    "", "", "", "", "Sorry, ", "Hmm, ", "Ok, ", "Wait, ", "Well, ", "Excuse me, ", "Please, ", "Hi, ", "And ",
    "So ", "But ", "Oh, ", "Thanks, ", "Right, ", "No, ", "Yes, ", "Sorry but ", "I see, ", "Again, ",
)  # fmt: skip
CORES = (
    "can you repeat that", "could you repeat that", "can you say that again", "could you say it again",
    "repeat that", "say that again", "tell me again", "tell me once more", "please repeat", "what was that",
    "what did you say", "what do you mean", "I did not get that", "I did not understand", "I missed that",
    "come again", "one more time", "once more", "again", "which one was it", "which one is it", "what is it",
    "what was it", "what is it about", "what is this about", "what was my question about", "what did I ask",
    "what was I asking", "what were we talking about", "what is the intent", "which intent is it",
    "name the intent", "what was the intent", "what is the label", "which label", "what category is that",
    "which category is this", "name the category", "what is the topic", "are you sure", "are you certain",
    "is that right", "is that correct", "is it really", "really", "seriously", "can you confirm",
    "can you confirm that", "please confirm", "do you understand", "did you understand me", "you heard me",
    "as I said", "that is what I asked", "that is what I meant", "same question", "same question as before",
    "I asked that already", "I already told you", "still the same problem", "it is still the same",
    "nothing has changed", "answer me", "please answer", "answer again", "go on", "continue", "any news", "hello",
    "are you there", "still there", "thanks", "thank you", "thank you very much", "many thanks", "thanks a lot",
    "cheers", "great", "good", "perfect", "fine", "ok", "okay", "alright", "I see", "got it", "understood",
    "makes sense", "yes", "yes please", "right", "sure", "hmm", "well", "remind me", "remind me what this is about",
    "help me with that", "can you help me with this", "can you help", "what should I do", "what now",
    "what can I do about it", "and now", "please help", "I need help with it",
)  # fmt: skip
CLOSERS = ("", "", "?", "?", ".", "!", " please", " please?", "...", " then?", " again?", " now?", " thanks")


def follow_up(rng: random.Random) -> str:
    """A turn that asks nothing new."""
    text = rng.choice(OPENERS) + rng.choice(CORES) + rng.choice(CLOSERS)
    return text[:1].upper() + text[1:] if rng.random() < 0.7 else text


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

    def changed(text: str) -> str:
        return augment(text, rng, word_dropout=data.word_dropout, typos=data.typos)

    for question in questions:
        renderer.ask(row, changed(question.text), question_loss)
        renderer.answer(row, question.label)
        while rng.random() < data.follow_up:
            renderer.ask(row, changed(follow_up(rng)))
            renderer.answer(row, question.label)
    return row


def augment(text: str, rng: random.Random, *, word_dropout: float, typos: float) -> str:
    """Leave words out, make typing errors, change case and final punctuation: what customers do. word_dropout, typos:
    probabilities for each word."""
    words = text.split()
    kept = [word for word in words if rng.random() >= word_dropout] or words
    kept = [_typo(word, rng) if rng.random() < typos else word for word in kept]
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
