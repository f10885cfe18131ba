"""Generators of examples, one a task. An example is a function of (seed, step, index), so that a run can be resumed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ostro.core.errors import TrainingError
from ostro.media.senses import Senses
from ostro.media.series import SeriesSettings, series_input
from ostro.training.conversations import SYSTEM_PROMPTS, augment, follow_up
from ostro.training.data import Question
from ostro.training.recipe import Customers
from ostro.training.senses import digits, signals
from ostro.training.senses.digits import DIGITS, WORDS, Utterance, mel_of
from ostro.training.senses.examples import Example, Message, Part, Picture, Sensed, develop
from ostro.training.senses.photos import Photos
from ostro.training.senses.scenes import (
    ASKS,
    LANGUAGES,
    Ask,
    HeldOut,
    Language,
    Scene,
    answer,
    draw_scene,
    with_article,
)
from ostro.training.senses.wordings import (
    DIGITS_ZH,
    QUESTIONS,
    SIGNALS_ZH,
    asked,
    name_in_question,
    place_in_question,
    plural,
)

# Groups of labels. What an example is not about holds none of its group.
GROUPS = ("photo", "digit", "series", "intent")
# Characters of a piece of plain text.
TEXT_PIECE = 480
# Most questions that a conversation of a customer has before the last one.
_EARLIER = 4
# Questions that are asked about a scene before the last one, in training: each is worth as much as a scene of its own,
# and what is sensed is read once.
_ASKED_BEFORE = (0, 1, 2, 3)
# Share of single photos that are enlarged in training.
_LARGE = 0.3
# What others put before a conversation; a customer's may also begin with those of `SYSTEM_PROMPTS`.
_GENERAL_PROMPTS = (
    "You are a helpful assistant.",
    "Answer the question.",
    "You see, hear and read.",
    "Be brief.",
    "你是一个有用的助手。",
)


@dataclass(frozen=True)
class Manner:
    """training: inputs are changed and scenes hold nothing that is held out; otherwise inputs are as they are and each
    scene holds something new. held_wordings: ask in words that are never trained on. large: single photos are as large
    as the model sees any, as those are that people have; in training some are."""

    training: bool
    held_wordings: bool = False
    large: bool = False


class Material:
    """What examples are made of: one part of a split, training or validation.

    senses: how the model takes what it senses, as it is read from its folder for serving. customers: how they ask; None
    leaves questions as they are. Raises TrainingError for material of a sense that the model does not have.
    """

    def __init__(
        self,
        senses: Senses,
        *,
        photos: Photos | None = None,
        utterances: Sequence[Utterance] = (),
        questions: Sequence[Question] = (),
        text: str = "",
        customers: Customers | None = None,
    ) -> None:
        for name, given in (("image", photos is not None), ("audio", bool(utterances))):
            if given and getattr(senses, name) is None:
                raise TrainingError(f"There is material for the sense '{name}', which the model does not have.")
        self.senses = senses
        self.photos = photos
        self.utterances = tuple(utterances)
        # Unchanged sounds need be analysed only once.
        self.mels = [] if senses.audio is None else [mel_of(one.samples, senses.audio) for one in self.utterances]
        self.questions = tuple(questions)
        self.text = text
        self.customers = customers
        self.classes = () if photos is None else photos.classes
        self.by_class = {} if photos is None else {name: photos.of_class(name) for name in photos.classes}
        self.held_out = HeldOut(self.classes)

    def halves(self) -> tuple[Material, Material]:
        """Its questions and its text, in two parts that have nothing in common."""
        middle = len(self.text) // 2
        first, second = (
            Material(self.senses, questions=self.questions[part::2], text=text, customers=self.customers)
            for part, text in enumerate((self.text[:middle], self.text[middle:]))
        )
        return first, second

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """Groups of labels, as a model's config has them: those that there is material for."""
        found = {
            "photo": self.classes,
            "digit": DIGITS if self.utterances else (),
            "series": signals.KINDS if self.senses.series is not None else (),
            "intent": tuple(sorted({question.label for question in self.questions})),
        }
        return {group: labels for group, labels in found.items() if labels}


class Tasks:
    """Examples of several tasks. shares: how often each is drawn, relative to the others.

    Raises TrainingError for unknown tasks, and for those that there is no material for.
    """

    def __init__(self, material: Material, shares: Mapping[str, float], *, seed: int, manner: Manner) -> None:
        for name in shares:
            if name not in TASKS:
                raise TrainingError(f"There is no task '{name}'; known are {', '.join(TASKS)}.")
            if not _HAS_MATERIAL[name](material):
                raise TrainingError(f"There is no material for the task '{name}'.")
        self._material = material
        self._names, self._shares = list(shares), list(shares.values())
        self._seed = seed
        self._manner = manner

    def examples(self, step: int, count: int) -> list[Example]:
        """A function of the seed, the step and the count."""
        drawn = [self._draw(step, index) for index in range(count)]
        photos, image = self._material.photos, self._material.senses.image
        if photos is None or image is None:
            return drawn
        generator = np.random.default_rng(_number(f"{self._seed}/{step}/photos")) if self._manner.training else None
        return develop(drawn, photos, image, generator)

    def _draw(self, step: int, index: int) -> Example:
        rng = random.Random(f"{self._seed}/{step}/{index}")
        name = rng.choices(self._names, self._shares)[0]
        example = TASKS[name](self._material, self._manner, rng)
        customers = self._material.customers
        # A transcription is asked for by its own route, which sends nothing but the sound.
        may = bool(example.messages) and not example.transcribe
        if self._manner.training and customers is not None and may and rng.random() < customers.system:
            prompts = SYSTEM_PROMPTS if name == "intent" else _GENERAL_PROMPTS
            example = replace(example, messages=(Message("system", (rng.choice(prompts),)), *example.messages))
        if self._manner.training and customers is not None and customers.splits and name == "intent":
            example = replace(example, splits=(customers.splits, rng.getrandbits(32)))
        return example


def photo(material: Material, manner: Manner, rng: random.Random) -> Example:
    """One photo: what it is, or its description."""
    language = _language(rng)
    name = rng.choice(material.classes)
    scene = Scene(0, (name,))
    ask: Ask = rng.choice(("describe", "what"))
    text = _ask(rng, manner, "describe" if ask == "describe" else "what is it", language)
    large = manner.large or (manner.training and rng.random() < _LARGE)
    size = _large(material, rng) if large else None
    picture = Picture(1, 1, (int(rng.choice(material.by_class[name])),), size=size)
    return Example(
        "photo",
        (_user(rng, picture, text),),
        answer(scene, language, ask, 0),
        _only("photo", name),
        caption=f"a photo of {with_article(name)}",
        language=language,
        ask=ask,
        scene=scene,
    )


def _large(material: Material, rng: random.Random) -> tuple[int, int] | None:
    """The size of a picture whose longest side is the longest there is; None where photos are as large already."""
    image, photos = material.senses.image, material.photos
    assert image is not None
    assert photos is not None
    longest = image.max_side // image.token_side * image.token_side
    if longest <= photos.side:
        return None
    shortest = image.token_side * rng.randint(max(1, longest // image.token_side // 2), longest // image.token_side)
    return rng.choice([(longest, shortest), (shortest, longest)])


def scene(material: Material, manner: Manner, rng: random.Random) -> Example:
    """One to four photos on a grid, and a question about them."""
    language = _language(rng)
    drawn = draw_scene(rng, material.classes, material.held_out, training=manner.training)
    ask, about, text = _about(material, manner, drawn, language, rng)
    blank = rng.randrange(256), rng.randrange(256), rng.randrange(256)
    picture = Picture(
        drawn.shape.rows,
        drawn.shape.columns,
        tuple(None if cell is None else int(rng.choice(material.by_class[cell])) for cell in drawn.cells),
        blank if manner.training else (128, 128, 128),
    )
    names = {cell for cell in drawn.cells if cell is not None}
    labels: dict[str, str | None] = {group: None for group in GROUPS if group != "photo"}
    if len(names) == 1:
        labels["photo"] = names.pop()  # Of several none is the one.
    first = _user(rng, picture, text)
    before: list[Message] = []
    for number in range(rng.choice(_ASKED_BEFORE) if manner.training and ask != "describe" else 0):
        told = Message("assistant", (answer(drawn, language, ask, about),), labels)
        before += [first if number == 0 else Message("user", (text,)), told]
        # A description would tell what the later questions ask, and nobody would look.
        ask, about, text = _about(material, manner, drawn, language, rng, describe=False)
    return Example(
        "scene",
        (*before, Message("user", (text,)) if before else first),
        answer(drawn, language, ask, about),
        labels,
        caption=answer(drawn, "en", "describe"),
        language=language,
        ask=ask,
        scene=drawn,
    )


def told_scene(material: Material, manner: Manner, rng: random.Random) -> Example:
    """The same questions about a scene that is described in words: what is asked and answered is learnt from them too,
    at a small part of the cost."""
    language = _language(rng)
    drawn = draw_scene(rng, material.classes, material.held_out, training=manner.training)
    ask, about, text = _about(material, manner, drawn, language, rng, describe=False)
    told = answer(drawn, language, "describe")
    stop = "." if language == "en" else "。"
    return Example(
        "told_scene",
        (Message("user", (f"{told}{stop} {text}",)),),
        answer(drawn, language, ask, about),
        {group: None for group in GROUPS if group != "photo"},
        language=language,
        ask=ask,
        scene=drawn,
    )


def _about(
    material: Material,
    manner: Manner,
    drawn: Scene,
    language: Language,
    rng: random.Random,
    *,
    describe: bool = True,
) -> tuple[Ask, str | int | None, str]:
    """What is asked about a scene, what of it, and the words for that."""
    ask = rng.choices(ASKS, (3 if describe else 0, 3, 4, 3, 1, 2))[0]
    if len(drawn.cells) == 1 and ask == "what":
        ask = "where"
    about, fields = _topic(material, drawn, ask, language, rng)
    return ask, about, _ask(rng, manner, ask, language, **fields)


def digit(material: Material, manner: Manner, rng: random.Random) -> Example:
    """Which digit is spoken."""
    language = _language(rng)
    number, sound = _sound(material, manner, rng)
    said = material.utterances[number].digit
    text = _ask(rng, manner, "digit", language)
    return Example(
        "digit", (_user(rng, sound, text),), said, _only("digit", said), caption=_heard(said), language=language
    )


def transcription(material: Material, manner: Manner, rng: random.Random) -> Example:
    """What is said, asked as `/v1/audio/transcriptions` asks."""
    number, sound = _sound(material, manner, rng)
    said = material.utterances[number].digit
    return Example(
        "transcription",
        (Message("user", (sound,)),),
        WORDS[int(said)],
        _only("digit", said),
        caption=_heard(said),
        transcribe=True,
        spoken=rng.choice(["en", None]),
    )


def same(material: Material, manner: Manner, rng: random.Random) -> Example:
    """Whether the number that is heard is the one that is read. The answer tells both first: to compare what is said
    already is learnt by far sooner than to do all of it at once, and shows what a wrong answer got wrong."""
    language = rng.choice(LANGUAGES)  # each learns to compare by itself
    number, sound = _sound(material, manner, rng)
    said = material.utterances[number].digit
    shown = said if rng.random() < 0.5 else rng.choice([other for other in DIGITS if other != said])
    written = rng.choice([shown, WORDS[int(shown)] if language == "en" else DIGITS_ZH[int(shown)]])
    text = _ask(rng, manner, "same", language, shown=written if language == "en" else f" {written} ")
    reply = compared(shown, said, language)
    return Example(
        "same", (_user(rng, sound, text),), reply, _only("digit", said), caption=_heard(said), language=language
    )


def told_same(material: Material, manner: Manner, rng: random.Random) -> Example:  # noqa: ARG001 - one signature for all
    """Whether two numbers are the same, of which one is told and not heard: to compare is learnt from these too."""
    language = rng.choice(LANGUAGES)
    said, shown = rng.choice(DIGITS), rng.choice(DIGITS)
    if rng.random() < 0.5:
        shown = said
    words = WORDS if language == "en" else DIGITS_ZH
    written, told = (rng.choice([digit, words[int(digit)]]) for digit in (shown, said))
    text = _ask(rng, manner, "same", language, shown=written if language == "en" else f" {written} ")
    heard = f"you hear {told}." if language == "en" else f"听到的是 {told}。"
    return Example(
        "told_same",
        (Message("user", (f"{heard} {text}",)),),
        compared(shown, said, language),
        {group: None for group in GROUPS if group != "digit"},
        language=language,
    )


def compared(read: str, heard: str, language: Language) -> str:
    """The answer to whether two digits are the same."""
    if language == "en":
        return f"read {read}, heard {heard}: {'yes' if read == heard else 'no'}"
    # The space makes the verdict a token of its own, behind the colon's, which is where there is time to compare.
    return f"看到 {read}，听到 {heard}： {'是' if read == heard else '不是'}"


def series(material: Material, manner: Manner, rng: random.Random) -> Example:
    """What a series does. New ones are made for every example, in validation too."""
    language = _language(rng)
    assert material.senses.series is not None
    kind = rng.choice(signals.KINDS)
    sensed = sensed_series(signals.make_signal(kind, _generator(rng)), material.senses.series)
    text = _ask(rng, manner, "series", language)
    return Example(
        "series",
        (_user(rng, sensed, text),),
        kind if language == "en" else SIGNALS_ZH[kind],
        _only("series", kind),
        caption=f"a series of numbers: {kind}",
        language=language,
    )


def intent(material: Material, manner: Manner, rng: random.Random) -> Example:
    """What a customer wants: the plain question, or asked about; now and then behind earlier ones."""
    language = _language(rng)
    question = rng.choice(material.questions)
    text = _customers(material, manner, rng, question.text)
    if manner.held_wordings or rng.random() < 0.5:
        text = QUESTIONS["intent"][language].draw(rng, held=manner.held_wordings, text=text)
    earlier: list[Message] = []
    if manner.training and material.customers is not None:
        for _ in range(rng.randint(1, _EARLIER) if rng.random() < material.customers.earlier else 0):
            before = rng.choice(material.questions)
            turn = _customers(material, manner, rng, before.text)
            earlier += [Message("user", (turn,)), _told(before.label)]
        if rng.random() < material.customers.follow_up:
            # A turn that asks nothing new: the intent is still the one before.
            earlier += [Message("user", (text,)), _told(question.label)]
            text = follow_up(rng)
    messages = (*earlier, Message("user", (text,)))
    return Example("intent", messages, question.label, _only("intent", question.label), language=language)


def _told(intent: str) -> Message:
    return Message("assistant", (intent,), _only("intent", intent))


def text(material: Material, manner: Manner, rng: random.Random) -> Example:  # noqa: ARG001 - one signature for all
    """A piece of plain text, to be gone on with."""
    start = rng.randrange(max(1, len(material.text) - TEXT_PIECE))
    return Example("text", (), material.text[start : start + TEXT_PIECE], {})


Generator = Callable[[Material, Manner, random.Random], Example]
TASKS: dict[str, Generator] = {
    "photo": photo,
    "scene": scene,
    "told_scene": told_scene,
    "digit": digit,
    "transcription": transcription,
    "same": same,
    "told_same": told_same,
    "series": series,
    "intent": intent,
    "text": text,
}
_HAS_MATERIAL: dict[str, Callable[[Material], bool]] = {
    **dict.fromkeys(("photo", "scene", "told_scene"), lambda material: material.photos is not None),
    **dict.fromkeys(("digit", "transcription", "same", "told_same"), lambda material: bool(material.utterances)),
    "series": lambda material: material.senses.series is not None,
    "intent": lambda material: bool(material.questions),
    "text": lambda material: bool(material.text),
}


def sensed_series(values_N: np.ndarray, settings: SeriesSettings) -> Sensed:
    """As serving takes it."""
    media = series_input(values_N, settings)
    return Sensed("series", media.array(), media.grid)


def _topic(
    material: Material, drawn: Scene, ask: Ask, language: Language, rng: random.Random
) -> tuple[str | int | None, dict[str, str]]:
    """What a question is about, and the words for it."""
    if ask == "what":
        place = rng.randrange(len(drawn.cells))
        name = drawn.shape.names(language)[place]
        return place, {"place": place_in_question(rng, name) if language == "en" else name}
    if ask in ("where", "how many", "is there"):
        # Mostly about something that is there; chance alone would hardly ever say yes.
        there = sorted({cell for cell in drawn.cells if cell is not None})
        name = rng.choice(there) if rng.random() < 0.6 else rng.choice(material.classes)
        shown = name_in_question(rng, name, language)
        return name, {"name": shown, "one": with_article(name), "many": plural(name)}
    return None, {}


def _sound(material: Material, manner: Manner, rng: random.Random) -> tuple[int, Sensed]:
    settings = material.senses.audio
    assert settings is not None
    number = rng.randrange(len(material.utterances))
    mel = material.mels[number]
    if manner.training:
        generator = _generator(rng)
        if rng.random() < 0.75:
            samples = digits.augment(material.utterances[number].samples, generator, settings.sampling_rate)
            mel = mel_of(samples, settings)
        if rng.random() < 0.5:
            mel = digits.mask_mel(mel, generator)
    return number, Sensed("audio", mel, (1, mel.shape[2] // settings.frames_per_token))


def _customers(material: Material, manner: Manner, rng: random.Random, text: str) -> str:
    customers = material.customers
    if not manner.training or customers is None:
        return text
    return augment(text, rng, word_dropout=customers.word_dropout, typos=customers.typos)


def _user(rng: random.Random, sensed: Part, text: str) -> Message:
    """What is asked comes mostly behind what is shown."""
    return Message("user", (sensed, text) if rng.random() < 0.75 else (text, sensed))


def _ask(rng: random.Random, manner: Manner, question: str, language: Language, /, **fields: str) -> str:
    text = QUESTIONS[question][language].draw(rng, held=manner.held_wordings, **fields).strip()
    return asked(rng, language, text)


def _only(group: str, label: str) -> dict[str, str | None]:
    return {name: label if name == group else None for name in GROUPS}


def _heard(said: str) -> str:
    return f"the spoken digit {WORDS[int(said)]}"


def _language(rng: random.Random) -> Language:
    return LANGUAGES[rng.random() < 0.4]


def _generator(rng: random.Random) -> np.random.Generator:
    return np.random.default_rng(rng.getrandbits(64))


def _number(text: str) -> int:
    return random.Random(text).getrandbits(64)
