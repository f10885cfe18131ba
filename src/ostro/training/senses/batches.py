"""Batches that mix senses: documents packed into rows, and for each sense its inputs and the rows that they fill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ostro.core.errors import TrainingError
from ostro.models.layers.context import DenseContext
from ostro.models.layers.decoder import Decoder
from ostro.models.layers.encoder import finished, unhurried
from ostro.models.ostro.config import MODALITIES, LabelGroup
from ostro.tokenizer.base import Tokenizer
from ostro.training.batches import Batch
from ostro.training.senses.examples import Example
from ostro.training.senses.prompts import Document, Prompts

# The target of a label that is neither known nor known to be none: cross_entropy leaves it out.
IGNORED = -100


@dataclass(frozen=True)
class MediaRows:
    """All inputs of one sense in a batch, float32, as its encoder takes them.

    rows_N: int64, the rows of the flat batch that the encoder's rows fill, those of each input in order. An image's are
    not next to each other: breaks stand between its rows of tokens.
    """

    modality: str
    inputs: tuple[torch.Tensor, ...]
    rows_N: torch.Tensor


@dataclass(frozen=True)
class SenseBatch(Batch):
    """A batch as text has it, and what is sensed.

    modalities_T: int64, numbers of `MODALITIES`. ends_N: int64, for each prompt the row at its end, from where the
    answer and the labels are read; in the order of the examples and of the turns of each, plain text having none.
    labels: by group, int64 [N]: the label's number, the number of labels for none of them, or `IGNORED`.
    """

    modalities_T: torch.Tensor
    media: tuple[MediaRows, ...]
    ends_N: torch.Tensor
    labels: Mapping[str, torch.Tensor]

    def to(self, device: torch.device | str) -> SenseBatch:
        """The same on another device."""
        media = tuple(MediaRows(one.modality, moved(one.inputs, device), one.rows_N.to(device)) for one in self.media)
        labels = {name: x.to(device) for name, x in self.labels.items()}
        return replace(super().to(device), media=media, labels=labels)

    def context(self, dropout: float = 0.0) -> DenseContext:
        return DenseContext(self.rows, dropout, self.segments_T, self.modalities_T)


class Batcher:
    """Makes batches of examples. groups: of labels, as the model's config has them. row_length: tokens of a row that
    documents are packed into; a longer document makes longer rows. asked, plain: as of `Prompts`. device: where batches
    lie.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        groups: Sequence[LabelGroup] = (),
        *,
        row_length: int = 256,
        asked: float = 0.0,
        plain: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> None:
        self._device = device
        self._prompts = Prompts(tokenizer, asked=asked, plain=plain)
        self._groups = {group.name: {label: at for at, label in enumerate(group.labels)} for group in groups}
        self._row_length = row_length

    def batch(self, examples: Sequence[Example]) -> SenseBatch:
        """Targets are the answers with their ends, requests as `asked` says, and plain text as `plain` does."""
        documents = [self._prompts.document(example) for example in examples]
        held = [labels for example in examples for labels in _by_prompt(example)]
        labels = {name: self._targets(name, held) for name in self._groups}
        return _collate(documents, self._prompts.pad, self._row_length, labels).to(self._device)

    def pairs(self, examples: Sequence[Example]) -> tuple[SenseBatch, SenseBatch, list[str]]:
        """What is sensed, and the captions of it, for the contrastive loss; with the captions, which are its groups.

        Row i of both `ends_N` is of example i. Raises TrainingError for an example without a caption.
        """
        captions = [example.caption for example in examples]
        if None in captions:
            raise TrainingError(f"An example of the task '{examples[captions.index(None)].task}' has no caption.")
        named = [str(caption) for caption in captions]
        sensed = [self._prompts.sensed(example) for example in examples]
        said = [self._prompts.caption(caption) for caption in named]
        first, second = (_collate(one, self._prompts.pad, self._row_length, {}) for one in (sensed, said))
        return first.to(self._device), second.to(self._device), named

    def _targets(self, group: str, held: Sequence[Mapping[str, str | None]]) -> torch.Tensor:
        numbers = self._groups[group]
        targets = []
        for labels in held:
            if group not in labels:
                targets.append(IGNORED)
                continue
            label = labels[group]
            if label is not None and label not in numbers:
                raise TrainingError(f"The label '{label}' of an example is not in the model's group '{group}'.")
            targets.append(len(numbers) if label is None else numbers[label])
        return torch.tensor(targets, dtype=torch.int64)


def embed(model: Decoder, batch: SenseBatch) -> torch.Tensor:
    """The batch as the decoder takes it, [T, D]: embeddings of tokens, and what the encoders make of the media in their
    places. Differentiable in both; each encoder runs once, over all its inputs.

    Raises TrainingError for a sense that the model does not have.
    """
    x_TD: torch.Tensor = model.embed(batch.inputs_T, model.dtype)
    for one in batch.media:
        encoder = model.encoder(one.modality)
        if encoder is None:
            raise TrainingError(f"A batch holds inputs of the sense '{one.modality}', which the model does not have.")
        with unhurried():
            rows_ND = torch.cat(finished(encoder.encode(one.inputs)))
        x_TD = x_TD.index_copy(0, one.rows_N, rows_ND.to(x_TD.dtype))
    return x_TD


def _by_prompt(example: Example) -> list[Mapping[str, str | None]]:
    """The labels of each prompt of a conversation; there is none in plain text."""
    earlier = [message.labels for message in example.messages if message.role == "assistant"]
    return [*earlier, example.labels] if example.messages else []


def _collate(documents: Sequence[Document], pad: int, length: int, labels: Mapping[str, torch.Tensor]) -> SenseBatch:
    """A token's target is the one after it, with that one's weight; what is left of a row is padding without weight."""
    sizes = [len(document.tokens) - 1 for document in documents]
    length = max(length, *sizes)
    placed = first_fit(sizes, length)
    rows = 1 + max(row for row, _, _ in placed)
    inputs, targets = np.full((rows, length), pad, dtype=np.int64), np.full((rows, length), pad, dtype=np.int64)
    weights = np.zeros((rows, length), dtype=np.float32)
    positions, modalities = np.zeros((rows, length), dtype=np.int64), np.zeros((rows, length), dtype=np.int64)
    segments = np.full((rows, length), -1, dtype=np.int64)
    ends: list[int] = []
    media: dict[str, tuple[list[torch.Tensor], list[np.ndarray]]] = {}
    for document, size, (row, at, number) in zip(documents, sizes, placed, strict=True):
        part = slice(at, at + size)
        inputs[row, part] = document.tokens[:-1]
        targets[row, part] = document.tokens[1:]
        weights[row, part] = document.weights[1:]
        positions[row, part] = np.arange(size)
        segments[row, part] = number
        ends += [row * length + at + end for end in document.ends]
        for sensed, filled in document.media:
            rows_N = row * length + at + np.asarray(filled, dtype=np.int64)
            modalities.reshape(-1)[rows_N] = MODALITIES.index(sensed.modality)
            arrays, places = media.setdefault(sensed.modality, ([], []))
            arrays.append(torch.tensor(sensed.array))
            places.append(rows_N)
    return SenseBatch(
        inputs_T=_flat(inputs),
        targets_T=_flat(targets),
        weights_T=_flat(weights),
        positions_T=_flat(positions),
        segments_T=_flat(segments),
        rows=rows,
        modalities_T=_flat(modalities),
        media=tuple(
            MediaRows(modality, tuple(arrays), torch.from_numpy(np.concatenate(places)))
            for modality, (arrays, places) in sorted(media.items())
        ),
        ends_N=torch.tensor(ends, dtype=torch.int64),
        labels=labels,
    )


def moved(inputs: Sequence[torch.Tensor], device: torch.device | str) -> tuple[torch.Tensor, ...]:
    """The same on another device. Those of one shape cross together: a copy each would take longer than what is in
    it."""
    device = torch.device(device)
    if device.type == "cpu":
        return tuple(one.to(device) for one in inputs)
    shapes: dict[tuple[int, ...], list[int]] = {}
    for index, one in enumerate(inputs):
        shapes.setdefault(tuple(one.shape), []).append(index)
    found: dict[int, torch.Tensor] = {}
    for indices in shapes.values():
        found |= dict(zip(indices, torch.stack([inputs[index] for index in indices]).to(device), strict=True))
    return tuple(found[index] for index in range(len(inputs)))


def _flat(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.reshape(-1))


def first_fit(sizes: Sequence[int], length: int) -> list[tuple[int, int, int]]:
    """For each document its row, where in it it begins, and its number within the row: longest first, each into the
    first row with room for it. No size may be above the length."""
    room: list[int] = []
    numbers: list[int] = []
    placed = [(0, 0, 0)] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        size = sizes[index]
        row = next((row for row, left in enumerate(room) if left >= size), None)
        if row is None:
            row = len(room)
            room.append(length)
            numbers.append(0)
        placed[index] = (row, length - room[row], numbers[row])
        room[row] -= size
        numbers[row] += 1
    return placed
