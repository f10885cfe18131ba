"""What the unified decoder is trained for: the next token, labels, vectors that senses share, and to do with fewer
channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import torch
import torch.nn.functional as F

from ostro.core.errors import TrainingError
from ostro.models.layers.decoder import Decoder
from ostro.models.ostro.config import TEXT
from ostro.models.ostro.model import UnifiedDecoder
from ostro.training.loop import Groups, decaying
from ostro.training.senses.batches import IGNORED, Batcher, SenseBatch, embed
from ostro.training.senses.contrast import ContrastiveLoss
from ostro.training.senses.tasks import Tasks

# Tasks whose examples have captions that a contrastive pair can be made of.
CAPTIONED = ("photo", "scene", "digit", "series")


class UnifiedObjective(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """examples: of a step, of all tasks. labels, contrast: weights of their losses beside the next token's of 1; 0
    leaves one out. pairs: of the contrastive loss, a step. temperature: of InfoNCE. whole: share of steps in which
    every token runs all channels; in the others each text token runs a level by chance. distil: share of a teacher's
    distribution in the targets of text and labels, where there is a teacher (Hinton et al. 2015). asked: weight of
    predicting the words of a request that is of words alone, of which there are more than of answers; plain: of
    predicting plain text, of which there are more again."""

    examples: int = 48
    labels: float = 0.3
    contrast: float = 0.2
    pairs: int = 32
    temperature: float = 0.1
    whole: float = 0.5
    distil: float = 0.5
    asked: float = 0.0
    plain: float = 1.0


@dataclass(frozen=True)
class Taught:
    """What a teacher says of a batch: logits of the counted tokens, and by group those of the labels."""

    text_NV: torch.Tensor
    labels: list[torch.Tensor]


class UnifiedLoss:
    """The objective of a step, a function of the step. captioned: where the pairs of the contrastive loss come from.
    teacher: a model of the same vocabulary, senses and labels."""

    def __init__(
        self,
        recipe: UnifiedObjective,
        tasks: Tasks,
        captioned: Tasks | None,
        batcher: Batcher,
        *,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        teacher: UnifiedDecoder | None = None,
    ) -> None:
        self._recipe = recipe
        self._tasks, self._captioned, self._batcher = tasks, captioned, batcher
        self._dropout, self._smoothing = dropout, label_smoothing
        self._contrast = ContrastiveLoss(recipe.temperature)
        self._teacher = teacher if recipe.distil else None

    def __call__(self, model: Decoder, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        assert isinstance(model, UnifiedDecoder)
        recipe = self._recipe
        batch = self._batcher.batch(self._tasks.examples(step, recipe.examples))
        levels_T = self._levels(model, batch)
        hidden_TD = run(model, batch, levels_T, dropout=self._dropout)
        taught = None if self._teacher is None else _teach(self._teacher, batch)
        losses = {"text": self._text(model, batch, hidden_TD, taught)}
        if recipe.labels and model.label_head is not None:
            losses["labels"] = self._labels(model, batch, hidden_TD, taught)
        if recipe.contrast and self._captioned is not None and model.embedding_head is not None:
            losses["contrast"] = self._pairs(model, step)
        weights = {"text": 1.0, "labels": recipe.labels, "contrast": recipe.contrast}
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        return total, {name: loss.item() for name, loss in losses.items()}

    def _levels(self, model: UnifiedDecoder, batch: SenseBatch) -> torch.Tensor | None:
        """A level for every token; None where the model has no gate. Whoever runs a step has seeded its chance."""
        gate = model.unified.gate
        if gate is None:
            return None
        top = len(gate.widths) - 1
        whole = torch.rand(1).item() < self._recipe.whole
        drawn_T = torch.randint(0, top + 1, (len(batch.inputs_T),)).to(batch.inputs_T.device)
        return torch.where((batch.modalities_T == TEXT) & (not whole), drawn_T, top)

    def _text(
        self, model: UnifiedDecoder, batch: SenseBatch, hidden_TD: torch.Tensor, taught: Taught | None
    ) -> torch.Tensor:
        counted_N = batch.weights_T.nonzero()[:, 0]
        if not len(counted_N):
            raise TrainingError("A batch has no target: its loss mask is all zero. Check that the tasks have answers.")
        logits_NV = model.logits(hidden_TD[counted_N]).float()
        losses_N = F.cross_entropy(
            logits_NV, batch.targets_T[counted_N], reduction="none", label_smoothing=self._smoothing
        )
        if taught is not None:
            losses_N = torch.lerp(losses_N, _towards(taught.text_NV, logits_NV), self._recipe.distil)
        weights_N = batch.weights_T[counted_N]
        return (losses_N * weights_N).sum() / weights_N.sum()

    def _labels(
        self, model: UnifiedDecoder, batch: SenseBatch, hidden_TD: torch.Tensor, taught: Taught | None
    ) -> torch.Tensor:
        """Mean over the groups of what each prompt is known to hold, or not to."""
        found = []
        groups = model.label_logits(hidden_TD[batch.ends_N])
        for index, (group, logits_NL) in enumerate(zip(model.unified.labels, groups, strict=True)):
            targets_N = batch.labels[group.name]
            known_N = targets_N != IGNORED
            if known_N.any():
                loss = F.cross_entropy(logits_NL.float(), targets_N, ignore_index=IGNORED)
                if taught is not None:
                    soft = _towards(taught.labels[index][known_N], logits_NL[known_N].float()).mean()
                    loss = torch.lerp(loss, soft, self._recipe.distil)
                found.append(loss)
        return torch.stack(found).mean() if found else hidden_TD.new_zeros(())

    def _pairs(self, model: UnifiedDecoder, step: int) -> torch.Tensor:
        assert self._captioned is not None
        assert model.embedding_head is not None
        sensed, said, captions = self._batcher.pairs(self._captioned.examples(step, self._recipe.pairs))
        vectors = [model.embedding_head(run(model, one, None)[one.ends_N]) for one in (sensed, said)]
        loss: torch.Tensor = self._contrast(*vectors, captions)
        return loss


@torch.no_grad()
def _teach(teacher: UnifiedDecoder, batch: SenseBatch) -> Taught:
    """With all channels."""
    gate = teacher.unified.gate
    top_T = None if gate is None else torch.full_like(batch.modalities_T, len(gate.widths) - 1)
    hidden_TD = run(teacher, batch, top_T)
    text_NV = teacher.logits(hidden_TD[batch.weights_T.nonzero()[:, 0]]).float()
    return Taught(text_NV, [logits.float() for logits in teacher.label_logits(hidden_TD[batch.ends_N])])


def _towards(taught_NC: torch.Tensor, logits_NC: torch.Tensor) -> torch.Tensor:
    """Cross-entropy [N] with the teacher's distribution as the target."""
    return -(taught_NC.softmax(1) * logits_NC.log_softmax(1)).sum(1)


def run(
    model: UnifiedDecoder,
    batch: SenseBatch,
    levels_T: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scores: list[torch.Tensor] | None = None,
) -> torch.Tensor:
    """Hidden states [T, D]. levels_T: behind the gate, in its place; layers before it run as they do in serving. None
    lets the gate decide."""
    context = batch.context(dropout)
    x_TD = embed(model, batch)
    gate = model.unified.gate
    if gate is None or levels_T is None:
        whole: torch.Tensor = model(x_TD, batch.positions_T, context, scores=scores)
        return whole
    first_T = torch.where(batch.modalities_T == TEXT, 0, len(gate.widths) - 1)
    count = model.config.num_layers
    x_TD = model(x_TD, batch.positions_T, context, range(gate.layer), levels_T=first_T)
    out_TD: torch.Tensor = model(
        x_TD, batch.positions_T, context, range(gate.layer, count), levels_T=levels_T, scores=scores
    )
    return out_TD


def align_groups(model: UnifiedDecoder, decay: float) -> Groups:
    """All but the encoders, which stay as they were pre-trained; their projectors, which bring them here, are not."""
    return _grouped({n: p for n, p in model.named_parameters() if not _encodes(n) or ".projector." in n}, decay)


def joint_groups(model: UnifiedDecoder, decay: float, encoder_rate: float) -> Groups:
    """Everything, encoders at a rate of their own."""
    named = dict(model.named_parameters())
    encoders = [parameter for name, parameter in named.items() if _encodes(name)]
    rest = _grouped({name: parameter for name, parameter in named.items() if not _encodes(name)}, decay)
    return [*rest, *decaying(encoders, decay, encoder_rate)]


def _grouped(named: dict[str, torch.nn.Parameter], decay: float) -> Groups:
    """The matrices of attention and feed-forward layers by themselves. Routers, gates, heads, tables and what brings
    senses here are none of them: their rows and columns are no directions of one space."""
    matrices = {
        name: parameter
        for name, parameter in named.items()
        if name.startswith("layers.") and parameter.dim() == 2 and ".router." not in name
    }
    rest = [parameter for name, parameter in named.items() if name not in matrices]
    return [{"params": list(matrices.values()), "weight_decay": decay, "matrices": True}, *decaying(rest, decay)]


def _encodes(name: str) -> bool:
    return name.startswith("encoders.")


@torch.no_grad()
def level_losses(model: UnifiedDecoder, batches: Sequence[SenseBatch]) -> tuple[torch.Tensor, torch.Tensor]:
    """For every counted token of batches of text: the loss of its target at each level, [N, levels], and the gate's
    scores, [N, levels - 1]. What the gate is fitted to, and judged by. A model without one has one level."""
    gate = model.unified.gate
    count = 1 if gate is None else len(gate.widths)
    losses, found = [], []
    for batch in batches:
        counted_N = batch.weights_T.nonzero()[:, 0]
        by_level = []
        scores: list[torch.Tensor] = []
        for level in range(count):
            levels_T = torch.where(batch.modalities_T == TEXT, level, count - 1)
            scores = []
            hidden_TD = run(model, batch, levels_T, scores=scores)
            logits_NV = model.logits(hidden_TD[counted_N]).float()
            by_level.append(F.cross_entropy(logits_NV, batch.targets_T[counted_N], reduction="none"))
        losses.append(torch.stack(by_level, 1))
        found.append(scores[0][counted_N] if scores else losses[-1].new_zeros(len(counted_N), 0))
    return torch.cat(losses), torch.cat(found)
