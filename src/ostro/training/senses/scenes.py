"""Scenes of one to four photos on a grid: what may stand where, what is asked and answered, and which combinations are
kept from training."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from ostro.core.errors import TrainingError

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
Ask = Literal["describe", "what", "where", "how many", "how many photos", "is there"]
ASKS: tuple[Ask, ...] = ("describe", "what", "where", "how many", "how many photos", "is there")


@dataclass(frozen=True)
class Layout:
    """A grid of places, row by row. names: of the places, as both languages say where something is."""

    rows: int
    columns: int
    en: tuple[str, ...]
    zh: tuple[str, ...]

    def names(self, language: Language) -> tuple[str, ...]:
        return self.en if language == "en" else self.zh


LAYOUTS = (
    Layout(1, 1, ("in the middle",), ("中间",)),
    Layout(1, 2, ("on the left", "on the right"), ("左边", "右边")),
    Layout(2, 1, ("at the top", "at the bottom"), ("上面", "下面")),
    Layout(
        2, 2, ("at the top left", "at the top right", "at the bottom left", "at the bottom right"),
        ("左上", "右上", "左下", "右下"),
    ),
)  # fmt: skip
# How often each layout is drawn; the smallest is a task of its own.
_SHARES = (0.1, 0.25, 0.25, 0.4)
COUNTS = ("none", "one", "two", "three", "four")
_CHINESE_COUNTS = ("没有", "一", "两", "三", "四")
# Of so many combinations of two photos in two places one is held out, and of so many counts.
PAIR_SHARE, COUNT_SHARE = 10, 5


@dataclass(frozen=True)
class Scene:
    """layout: a number of `LAYOUTS`. cells: the class in each place, None where it is empty."""

    layout: int
    cells: tuple[str | None, ...]

    @property
    def shape(self) -> Layout:
        return LAYOUTS[self.layout]

    def count(self, name: str) -> int:
        return self.cells.count(name)

    @property
    def photos(self) -> int:
        return sum(cell is not None for cell in self.cells)


# Two classes in two places of a layout, or a class so often in a layout.
Combination = tuple[int, int, str, int, str] | tuple[int, str, int]


def combinations_of(scene: Scene) -> set[Combination]:
    """Every pair of photos by class and place, and every class by how often it is there, twice or more."""
    filled = [(place, cell) for place, cell in enumerate(scene.cells) if cell is not None]
    pairs: set[Combination] = {(scene.layout, p, a, q, b) for (p, a), (q, b) in combinations(filled, 2)}
    names = {cell for _, cell in filled}
    return pairs | {(scene.layout, name, scene.count(name)) for name in names if scene.count(name) > 1}


class HeldOut:
    """Which combinations are kept from training: a rule of class numbers, places and counts, without chance.

    Every class stands in every place, next to others, in training too; what is new in validation is who stands with
    whom. classes: sorted, as photos have them.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._numbers = {name: number for number, name in enumerate(classes)}

    def holds(self, combination: Combination) -> bool:
        if len(combination) == 3:
            layout, name, count = combination
            return (self._numbers[name] + 2 * count + layout) % COUNT_SHARE == 0
        layout, p, a, q, b = combination
        # Three and ten have no common divisor: for each first class there is one second class in ten.
        return (self._numbers[a] + 3 * self._numbers[b] + 7 * (4 * p + q) + 2 * layout) % PAIR_SHARE == 0

    def of(self, scene: Scene) -> set[Combination]:
        """The combinations of a scene that are held out; none of a scene to train on."""
        return {one for one in combinations_of(scene) if self.holds(one)}

    def check(self, scenes: Iterable[Scene]) -> None:
        """Raises TrainingError that names a combination which is held out and yet in a scene to train on."""
        for scene in scenes:
            if leaked := self.of(scene):
                raise TrainingError(
                    f"A scene to train on holds a combination that is held out: {min(leaked, key=str)}."
                )


def draw_scene(rng: random.Random, classes: Sequence[str], held_out: HeldOut, *, training: bool) -> Scene:
    """A scene without any combination that is held out, or for validation one with at least one."""
    for _ in range(10_000):
        layout = rng.choices(range(len(LAYOUTS)), _SHARES)[0]
        if not training and layout == 0:
            continue  # One photo is no combination.
        places = len(LAYOUTS[layout].en)
        cells: list[str | None] = []
        for _ in range(places):
            earlier = [cell for cell in cells if cell is not None]
            # Chance alone would hardly ever put two of a class together.
            again = bool(earlier) and rng.random() < 0.35
            cells.append(rng.choice(earlier) if again else rng.choice(classes))
        if places == 4 and rng.random() < 0.35:
            cells[rng.randrange(places)] = None
        scene = Scene(layout, tuple(cells))
        if bool(held_out.of(scene)) is not training:
            return scene
    raise TrainingError(f"{len(classes)} classes give no scenes to {'train on' if training else 'validate with'}.")


# Answers. A class is named as the data set names it, whatever the language.


def answer(scene: Scene, language: Language, ask: Ask, about: str | int | None = None) -> str:
    """The one right answer. about: the place's number for "what", the class for "where", "how many" and "is there"."""
    english = language == "en"
    if ask == "describe":
        return _description(scene, language)
    if ask == "what":
        assert isinstance(about, int)
        return scene.cells[about] or ("nothing" if english else "空的")
    if ask == "how many photos":
        return COUNTS[scene.photos] if english else f"{_CHINESE_COUNTS[scene.photos]}张"
    assert isinstance(about, str)
    if ask == "where":
        names = scene.shape.names(language)
        places = [names[place] for place, cell in enumerate(scene.cells) if cell == about]
        if not places:
            return "nowhere" if english else "没有"
        return " and ".join(places) if english else "和".join(places)
    count = scene.count(about)
    if ask == "how many":
        return COUNTS[count] if english else f"{_CHINESE_COUNTS[count]}个" if count else _CHINESE_COUNTS[0]
    if english:
        return "yes" if count else "no"
    return "有" if count else "没有"


def _description(scene: Scene, language: Language) -> str:
    names = scene.shape.names(language)
    if language == "en":
        if len(scene.cells) == 1:
            return f"one photo: {with_article(str(scene.cells[0]))}"
        parts = [
            f"{'nothing' if cell is None else with_article(cell)} {name}"
            for name, cell in zip(names, scene.cells, strict=True)
        ]
        return f"{COUNTS[scene.photos]} photos: {', '.join(parts)}"
    if len(scene.cells) == 1:
        return f"一张照片： {scene.cells[0]}"
    parts = [
        f"{name}是空的" if cell is None else f"{name}是 {cell}" for name, cell in zip(names, scene.cells, strict=True)
    ]
    return f"{_CHINESE_COUNTS[scene.photos]}张照片：{'，'.join(parts)}"


def with_article(name: str) -> str:
    return f"an {name}" if name[:1] in "aeiou" else f"a {name}"


Parsed = Scene | str | int | bool | tuple[int, ...] | None


def parse(text: str, language: Language, ask: Ask, scene: Scene) -> Parsed:
    """What an answer says, None where it is no sentence of the grammar. scene: what was asked about; its layout counts
    only, for the places that "where" may name.

    describe: a `Scene`. what: a class, or "" for an empty place. where: numbers of places. how many: a number.
    is there: a bool.
    """
    if ask == "describe":
        return _parse_description(text, language)
    if ask == "what":
        empty = "nothing" if language == "en" else "空的"
        return "" if text == empty else text if re.fullmatch(r"[\w-]+", text) else None
    if ask == "where":
        return _parse_places(text, language, scene.shape)
    if ask == "is there":
        return {"yes": True, "no": False, "有": True, "没有": False}.get(text)
    counts = COUNTS if language == "en" else _CHINESE_COUNTS
    unit = "" if language == "en" else "张" if ask == "how many photos" else "个"
    if text in (counts[0], counts[0] + unit):
        return 0
    found = text.removesuffix(unit) if text.endswith(unit) else ""
    return counts.index(found) if found in counts[1:] else None


def _parse_places(text: str, language: Language, layout: Layout) -> tuple[int, ...] | None:
    if text == ("nowhere" if language == "en" else "没有"):
        return ()
    names = layout.names(language)
    said = text.split(" and " if language == "en" else "和")
    places = tuple(names.index(name) for name in said if name in names)
    return places if len(places) == len(said) and list(places) == sorted(set(places)) else None


def _parse_description(text: str, language: Language) -> Scene | None:
    english = language == "en"
    head, mark, rest = text.partition(": " if english else "：")
    if not mark:
        return None
    if head == ("one photo" if english else "一张照片"):
        found = re.fullmatch(r"an? ([\w-]+)" if english else r" ([\w-]+)", rest)
        if found is not None and (not english or rest == with_article(found[1])):
            return Scene(0, (found[1],))
    parts = rest.split(", " if english else "，")
    for number, layout in enumerate(LAYOUTS[1:], start=1):
        cells = [_parse_cell(part, name, english) for part, name in zip(parts, layout.names(language), strict=False)]
        if len(parts) == len(cells) == len(layout.en) and "" not in cells:
            scene = Scene(number, tuple(cells))
            return scene if _description(scene, language) == text else None
    return None


def _parse_cell(part: str, place: str, english: bool) -> str | None:
    """A class, None for empty, "" for what is neither."""
    if part == (f"nothing {place}" if english else f"{place}是空的"):
        return None
    pattern = rf"an? ([\w-]+) {place}" if english else rf"{place}是 ([\w-]+)"
    found = re.fullmatch(pattern, part)
    return found[1] if found else ""
