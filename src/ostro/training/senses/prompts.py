"""Examples as tokens, laid out as the chat template lays them out, with a weight for every token to be predicted."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from ostro.core.errors import TrainingError
from ostro.tokenizer.base import Tokenizer
from ostro.tokenizer.placeholders import (
    IMAGE_MARKS,
    SERIES_MARKS,
    SOUND_MARKS,
    image_tokens,
    series_tokens,
    sound_tokens,
)
from ostro.training.senses.examples import Example, Message, Part, Sensed

_MARKS = ("[INST]", "[/INST]", "<pad>")
_OPTIONAL = ("[TRANSCRIBE]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
_LAY_OUT = {
    "image": (IMAGE_MARKS, image_tokens),
    "audio": (SOUND_MARKS, sound_tokens),
    "series": (SERIES_MARKS, series_tokens),
}
# Texts that are encoded once: wordings and answers come again and again.
_KNOWN_TEXTS = 1 << 14


@dataclass
class Document:
    """Tokens, and for each the weight of predicting it (0: only read).

    media: what is sensed, and the positions that it fills. ends: the last position of each prompt, which predicts the
    first token of its answer; none in plain text.
    """

    tokens: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    media: list[tuple[Sensed, list[int]]] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def add(self, tokens: list[int], weight: float) -> None:
        self.tokens += tokens
        self.weights += [weight] * len(tokens)

    def end_prompt(self) -> None:
        self.ends.append(len(self.tokens) - 1)


class Prompts:
    """Lays examples out for a tokenizer's template, of version 7 or later.

    asked: weight of predicting the words of a request that is of words alone; plain: of predicting plain text. Answers
    have 1. Raises TrainingError for a tokenizer that lacks control tokens for chats.
    """

    def __init__(self, tokenizer: Tokenizer, *, asked: float = 0.0, plain: float = 1.0) -> None:
        self._asked, self._plain = asked, plain
        names = {*_MARKS, *_OPTIONAL, *(mark for marks, _ in _LAY_OUT.values() for mark in marks)}
        found = {name: tokenizer.special_id(name) for name in names}
        self._ids = {name: token for name, token in found.items() if token is not None}
        if tokenizer.bos_id is None or any(name not in self._ids for name in _MARKS):
            raise TrainingError("The tokenizer lacks a control token for chats: [INST], [/INST], <pad> or <s>.")
        self._bos, self._eos = tokenizer.bos_id, tokenizer.eos_ids[0]
        self.pad = self._ids["<pad>"]
        self._tokenizer = tokenizer
        self._encode = lru_cache(_KNOWN_TEXTS)(lambda text: tuple(tokenizer.encode(text, bos=False)))
        self._cuts = lru_cache(None)(self._cut)

    def document(self, example: Example) -> Document:
        """An example with its answer."""
        document = Document()
        document.add([self._bos], 0.0)
        if not example.messages:
            document.add(self.encode(example.answer), self._plain)
            return document
        self._converse(document, example)
        document.end_prompt()
        document.add([*self.encode(example.answer), self._eos], 1.0)
        return document

    def sensed(self, example: Example) -> Document:
        """What is sensed in a conversation, by itself, as `Tokenizer.encode_media` has it for `/v1/embeddings`: one
        side of a contrastive pair."""
        document = Document()
        document.add([self._bos], 0.0)
        for part in (part for message in example.messages for part in message.parts):
            if not isinstance(part, str):
                assert isinstance(part, Sensed), "pictures are developed before they are laid out"
                self._show(document, part)
        return self._without_answer(document)

    def caption(self, text: str) -> Document:
        """A caption as a text by itself: the other side."""
        document = Document()
        document.add([self._bos, *self.encode(text)], 0.0)
        return self._without_answer(document)

    def encode(self, text: str) -> list[int]:
        return list(self._encode(text))

    def _converse(self, document: Document, example: Example) -> None:
        chance = None if example.splits is None else (example.splits[0], random.Random(example.splits[1]))
        sensed = False
        for message in example.messages:
            sensed = sensed or not all(isinstance(part, str) for part in message.parts)
            said = self.encode("".join(part for part in message.parts if isinstance(part, str)))
            if message.role == "user":
                # Of what is asked about something sensed there are a few wordings only.
                self._ask(document, message, 0.0 if sensed else self._asked, chance)
            elif message.role == "system":
                document.add([self._id("[SYSTEM_PROMPT]"), *said, self._id("[/SYSTEM_PROMPT]")], 0.0)
            else:
                document.end_prompt()
                document.add([*said, self._eos], 1.0)
        if example.transcribe:
            told = [] if example.spoken is None else self.encode(f"lang:{example.spoken}")
            document.add([*told, self._id("[TRANSCRIBE]")], 0.0)

    def _ask(
        self, document: Document, message: Message, weight: float, chance: tuple[float, random.Random] | None
    ) -> None:
        document.add([self._ids["[INST]"]], 0.0)
        for part in _in_order(message.parts):
            if isinstance(part, str):
                tokens = self.encode(part)
                document.add(tokens if chance is None else self._split(tokens, *chance), weight)
            else:
                assert isinstance(part, Sensed), "pictures are developed before they are laid out"
                self._show(document, part)
        document.add([self._ids["[/INST]"]], 0.0)

    def _split(self, tokens: list[int], rate: float, rng: random.Random) -> list[int]:
        """Some tokens as two that are written the same."""
        done: list[int] = []
        for token in tokens:
            cuts = self._cuts(token) if rng.random() < rate else ()
            done += rng.choice(cuts) if cuts else [token]
        return done

    def _cut(self, token: int) -> tuple[tuple[int, int], ...]:
        """All pairs of tokens that are written as one."""
        written = self._tokenizer.token_bytes(token)
        halves = ((written[:at], written[at:]) for at in range(1, len(written)))
        return tuple((self._pieces[a], self._pieces[b]) for a, b in halves if a in self._pieces and b in self._pieces)

    @cached_property
    def _pieces(self) -> dict[bytes, int]:
        ids = range(self._tokenizer.vocab_size)
        return {self._tokenizer.token_bytes(one): one for one in ids if not self._tokenizer.is_special(one)}

    def _show(self, document: Document, sensed: Sensed) -> None:
        marks, lay_out = _LAY_OUT[sensed.modality]
        place = self._id(marks[0])
        start = len(document.tokens)
        document.add(lay_out(sensed.grid, self._ids), 0.0)
        filled = [at for at in range(start, len(document.tokens)) if document.tokens[at] == place]
        document.media.append((sensed, filled))

    def _without_answer(self, document: Document) -> Document:
        """All of it is read; the end of the sequence only stands behind so that the last token is an input."""
        document.end_prompt()
        document.add([self._eos], 0.0)
        return document

    def _id(self, name: str) -> int:
        if name not in self._ids:
            raise TrainingError(f"The tokenizer has no control token {name}. Train the vocabulary again.")
        return self._ids[name]


def _in_order(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """The template puts an image, or what goes for one, in front of texts where nothing else is with them."""
    last = parts[-1]
    if isinstance(last, Sensed) and last.modality != "audio" and all(isinstance(part, str) for part in parts[:-1]):
        return (last, *parts[:-1])
    return parts
