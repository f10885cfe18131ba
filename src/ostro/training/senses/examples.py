"""What a model is shown and what it is to answer, before any of it is tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from ostro.core.errors import TrainingError
from ostro.core.media import Grid
from ostro.media.image import ImageSettings
from ostro.training.senses.photos import Photos, augment, enlarged, normalised
from ostro.training.senses.scenes import Ask, Language, Scene


@dataclass(frozen=True)
class Sensed:
    """One input as its encoder takes it. array: float32, shaped as `MediaInput` has it. grid: of its placeholders."""

    modality: str
    array: np.ndarray
    grid: Grid


@dataclass(frozen=True)
class Picture:
    """Photos on a grid, not looked at yet, so that those of a whole batch are changed together.

    cells: numbers of photos row by row, None for an empty place. blank: the colour of empty places. size: height and
    width in pixels that it is enlarged to; None leaves photos as large as they are.
    """

    rows: int
    columns: int
    cells: tuple[int | None, ...]
    blank: tuple[int, int, int] = (128, 128, 128)
    size: tuple[int, int] | None = None


Part = str | Sensed | Picture


@dataclass(frozen=True)
class Message:
    """labels: of an assistant's message, those of the prompt that it answers, as an example has them."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[Part, ...]
    labels: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """One conversation and its answer.

    task: which kind. messages: the first may be the system's, the last is the user's; without any the answer is plain
    text that goes on without end. labels: of the last prompt, for each group the one that holds, or None where none
    does; groups that are left out may hold anything. caption: what a contrastive pair says of what is sensed; equal
    captions mean the same. transcribe: asked by the marker for transcriptions, not by words; spoken: the language that
    is told with it. language, ask, scene: of questions about scenes, for `scenes.parse`. splits: the probability that a
    token of what a user says is read as two, and the seed of that chance.
    """

    task: str
    messages: tuple[Message, ...]
    answer: str
    labels: Mapping[str, str | None]
    caption: str | None = None
    transcribe: bool = False
    spoken: str | None = None
    language: Language = "en"
    ask: Ask | None = None
    scene: Scene | None = None
    splits: tuple[float, int] | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """What is sensed beside text, sorted."""
        parts = [part for message in self.messages for part in message.parts]
        found = {"image" if isinstance(part, Picture) else part.modality for part in parts if not isinstance(part, str)}
        return tuple(sorted(found))


def texts_of(examples: Iterable[Example]) -> Iterator[str]:
    """Everything that is said in examples, questions and answers: what a vocabulary is learnt from."""
    for example in examples:
        for message in example.messages:
            yield from (part for part in message.parts if isinstance(part, str))
        yield example.answer


def develop(
    examples: Sequence[Example], photos: Photos, settings: ImageSettings, generator: np.random.Generator | None
) -> list[Example]:
    """Examples with what is in their pictures in place of them. generator: changes the photos; None leaves them as they
    are. Raises TrainingError for photos whose sides are no whole tokens: serving would resize them."""
    pictures = [
        part for one in examples for message in one.messages for part in message.parts if isinstance(part, Picture)
    ]
    if not pictures:
        return list(examples)
    if photos.side % settings.token_side:
        raise TrainingError(
            f"Photos of {photos.side} pixels are no whole tokens of {settings.token_side}: change the strides of the "
            "image encoder."
        )
    images = photos.images[[cell for picture in pictures for cell in picture.cells if cell is not None]]
    if generator is not None:
        images = augment(images, generator)
    done = iter(_laid_out(pictures, images, settings.token_side))
    return [
        replace(
            one,
            messages=tuple(
                replace(
                    message,
                    parts=tuple(next(done) if isinstance(part, Picture) else part for part in message.parts),
                )
                for message in one.messages
            ),
        )
        for one in examples
    ]


def _laid_out(pictures: Sequence[Picture], images: np.ndarray, token_side: int) -> list[Sensed]:
    """images: uint8 [P, side, side, 3], those of each picture one after the other."""
    side = images.shape[1] if len(images) else 0
    canvases: dict[tuple[int, int], list[tuple[int, np.ndarray]]] = {}
    at = 0
    for index, picture in enumerate(pictures):
        canvas = np.empty((picture.rows * side, picture.columns * side, 3), dtype=np.uint8)
        for place, cell in enumerate(picture.cells):
            row, column = divmod(place, picture.columns)
            where = canvas[row * side : (row + 1) * side, column * side : (column + 1) * side]
            if cell is None:
                where[:] = picture.blank
            else:
                where[:] = images[at]
                at += 1
        if picture.size is not None:
            canvas = enlarged(canvas[None], *picture.size)[0]
        height, width = canvas.shape[:2]
        canvases.setdefault((height, width), []).append((index, canvas))
    made: dict[int, Sensed] = {}
    for (height, width), of_shape in canvases.items():
        grid = (height // token_side, width // token_side)
        arrays = normalised(np.stack([canvas for _, canvas in of_shape]))
        made |= {index: Sensed("image", array, grid) for (index, _), array in zip(of_shape, arrays, strict=True)}
    return [made[index] for index in range(len(pictures))]
