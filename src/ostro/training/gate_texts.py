"""The texts that a family's gate is fitted to, calibrated on and judged by."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ostro.compression.text import SAMPLE
from ostro.models.ostro.model import UnifiedDecoder
from ostro.training.gate import GateReport, calibrate, judge_gate
from ostro.training.prepared import Family
from ostro.training.senses.batches import SenseBatch
from ostro.training.senses.examples import Example
from ostro.training.senses.tasks import TEXT_PIECE, Manner, Material, Tasks
from ostro.training.unified import level_losses

# Batches that a gate is fitted to, and examples of each.
_FITTED_STEPS, _FITTED_EXAMPLES = 60, 48


def calibrate_gate(family: Family, model: UnifiedDecoder) -> GateReport:
    """Thresholds by half of the validation text; what they are worth by the other half."""
    gate = family.config.gate
    assert gate is not None
    first, second = family.validation.halves()
    found = [level_losses(model.eval(), _text_batches(family, first, task)) for task in ("text", "intent")]
    # Prose that is like nothing in the training costs the most: where it is within the target, other texts are.
    _, unlike_NL = level_losses(model, _prose(family))
    thresholds = calibrate(
        torch.cat([losses_NL for losses_NL, _ in found]),
        torch.cat([scores_NL for _, scores_NL in found]),
        gate.widths,
        before=gate.layer,
        layers=family.config.num_layers,
        target=family.recipe.gate_target,
        counts=[len(losses_NL) for losses_NL, _ in found],
        unlike_NL=unlike_NL,
    )
    assert model.gate is not None
    model.gate.thresholds = tuple(thresholds)
    others = [batch for task in ("text", "intent") for batch in _text_batches(family, second, task)]
    return judge_gate(model, others, thresholds)


def _text_batches(family: Family, material: Material, task: str) -> list[SenseBatch]:
    tasks = Tasks(material, {task: 1.0}, seed=family.recipe.seed + 2, manner=Manner(training=False))
    return [family.batcher().batch(tasks.examples(step, 24)) for step in range(8)]


def fitting(family: Family) -> Iterator[SenseBatch]:
    """What the gate is fitted to: training text, and questions as customers ask them."""
    tasks = family.tasks({"text": 1.0, "intent": 2.0}, Manner(training=True), seed=6)
    batcher = family.batcher(device=family.device)
    return (batcher.batch(tasks.examples(step, _FITTED_EXAMPLES)) for step in range(_FITTED_STEPS))


def _prose(family: Family) -> list[SenseBatch]:
    text = SAMPLE.read_text(encoding="utf-8")
    pieces = [Example("text", (), text[at : at + TEXT_PIECE], {}) for at in range(0, len(text), TEXT_PIECE)]
    return [family.batcher().batch(pieces[at : at + 24]) for at in range(0, min(96, len(pieces)), 24)]
