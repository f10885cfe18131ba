"""The gate of a trained model: what its scores are, and where its thresholds, so that text costs what it may cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import torch
import torch.nn.functional as F

from ostro.core.errors import TrainingError
from ostro.models.ostro.config import TEXT
from ostro.models.ostro.model import UnifiedDecoder, levels_of
from ostro.training.senses.batches import SenseBatch
from ostro.training.unified import level_losses, run

# Quantiles of the scores that are tried as thresholds.
_QUANTILES = 41


class GateReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a gate is worth, on tokens that its thresholds were not chosen by.

    share: of the full feed-forward compute, layers before the gate included. loss: mean (nats) where the gate decides;
    drawn_loss: where the same levels go to other tokens of the text, by chance; width_loss: with a fixed width for all
    tokens, interpolated between the two that cost less and more, so at equal compute as well; whole_loss: with all
    channels; least_loss: with the fewest. correlation: Pearson's, of the first score with the loss at the first level.
    gain: width_loss less loss, and its standard error over the tokens, each of which is its own peer.
    """

    thresholds: list[float]
    share: float
    loss: float
    drawn_loss: float
    width_loss: float
    whole_loss: float
    least_loss: float
    correlation: float
    gain: float
    gain_error: float


def calibrate(
    losses_NL: torch.Tensor,
    scores_NL: torch.Tensor,
    widths: Sequence[int],
    *,
    before: int,
    layers: int,
    target: float,
    counts: Sequence[int] | None = None,
    unlike_NL: torch.Tensor | None = None,
) -> list[float]:
    """The thresholds of least loss whose compute is at most `target` of the whole.

    losses_NL: of each text token at each level, [N, levels], one level for all tokens of a pass. scores_NL: the gate's,
    [N, levels - 1]. before: layers in front of the gate, which text runs at the first level; of `layers`. counts:
    tokens of each kind of text, one kind after the other; each kind by itself is to be within the target. None has one
    kind. unlike_NL: scores of text that is like nothing in the training: it is to be within the target, too, but what a
    model loses on it by chance chooses nothing.
    Raises TrainingError where even the first level costs more than the target.
    """
    count = len(widths)
    if losses_NL.shape[1] != count or scores_NL.shape[1] != count - 1:
        raise TrainingError(f"There are losses of {losses_NL.shape[1]} levels and {count} widths.")
    shares_L = torch.tensor([width / widths[-1] for width in widths], dtype=torch.float64)
    least = float(shares_L[0])
    if least > target + 1e-9:
        raise TrainingError(f"The first level alone costs {least:.0%} of the compute; the target is {target:.0%}.")
    kinds = [*torch.split(scores_NL, list(counts or [len(scores_NL)])), *([] if unlike_NL is None else [unlike_NL])]
    quantiles = torch.linspace(0, 1, _QUANTILES)
    candidates = [torch.quantile(scores_NL[:, i].float(), quantiles).tolist() for i in range(count - 1)]
    for listed in candidates:
        listed.append(listed[-1] + 1.0)  # above all of them: nothing rises

    best: tuple[float, list[float]] | None = None
    for thresholds in _grid(candidates):
        dearest = max(float(shares_L[levels_of(kind_NL, thresholds)].mean()) for kind_NL in kinds)
        share = (before * least + (layers - before) * dearest) / layers
        loss = float(losses_NL.gather(1, levels_of(scores_NL, thresholds)[:, None]).mean())
        if share <= target + 1e-9 and (best is None or loss < best[0]):
            best = loss, thresholds
    assert best is not None, "thresholds above all scores cost the least there is"
    return best[1]


@torch.no_grad()
def fit_gate(model: UnifiedDecoder, batches: Iterable[SenseBatch], *, ridge: float = 1.0) -> None:
    """Make the gate's scores what the next level gains, in nats, for the target of each counted token: by least squares
    over the streams that it reads, all at once, with the model as it is: what one token gains is mostly chance.

    ridge: of the mean square of a channel, added to each.
    """
    gate = model.gate
    assert gate is not None
    read: list[torch.Tensor] = []
    handle = gate.norm.register_forward_hook(lambda _module, _inputs, out: read.append(out))
    width = gate.score.in_features + 1
    square_DD = torch.zeros(width, width, dtype=torch.float64)
    product_DL = torch.zeros(width, gate.score.out_features, dtype=torch.float64)
    try:
        for batch in batches:
            read.clear()
            losses_NL, _ = level_losses(model, [batch])
            # What it reads is the same at every level: layers before it run the first.
            seen_ND = read[-1][batch.weights_T.nonzero()[:, 0]].double().cpu()
            seen_ND = torch.cat([seen_ND, seen_ND.new_ones(len(seen_ND), 1)], 1)
            square_DD += seen_ND.T @ seen_ND
            product_DL += seen_ND.T @ (losses_NL[:, :-1] - losses_NL[:, 1:]).double().cpu()
    finally:
        handle.remove()
    penalty_D = ridge * square_DD.diagonal().mean().expand(width).clone()
    penalty_D[-1] = 0  # the mean gain is no guess
    found_DL = torch.linalg.solve(square_DD + penalty_D.diag(), product_DL)
    assert gate.score.weight is not None
    assert gate.score.bias is not None
    gate.score.weight.copy_(found_DL[:-1].T)
    gate.score.bias.weight.copy_(found_DL[-1])


@torch.no_grad()
def judge_gate(model: UnifiedDecoder, batches: Sequence[SenseBatch], thresholds: list[float]) -> GateReport:
    """Passes in which tokens of all levels stand side by side, as serving has them. The model has these thresholds."""
    gate = model.unified.gate
    assert gate is not None
    assert model.gate is not None
    generator = torch.Generator().manual_seed(0)
    gated, drawn, levels = [], [], []
    for batch in batches:
        scores: list[torch.Tensor] = []
        gated.append(_losses(model, batch, None, scores))
        text_T = (batch.modalities_T == TEXT) & (batch.segments_T >= 0)
        levels_T = torch.where(batch.modalities_T == TEXT, model.gate.levels(scores[0]), len(gate.widths) - 1)
        levels.append(levels_T[text_T])
        mixed_N = levels[-1][torch.randperm(len(levels[-1]), generator=generator)]
        drawn.append(_losses(model, batch, levels_T.masked_scatter(text_T, mixed_N), []))
    losses_NL, scores_NL = level_losses(model, batches)
    shares_L = torch.tensor([width / gate.widths[-1] for width in gate.widths], dtype=torch.float64)
    layers = model.config.num_layers
    behind = float(shares_L[torch.cat(levels)].mean())
    least, before = float(shares_L[0]), gate.layer / layers  # text runs the first level in front of the gate
    share = before * least + (1 - before) * behind
    gated_N = torch.cat(gated)
    fixed_N = _interpolated(losses_NL, before * least + (1 - before) * shares_L, share)
    gains_N = fixed_N - gated_N
    return GateReport(
        thresholds=thresholds,
        share=share,
        loss=float(gated_N.mean()),
        drawn_loss=float(torch.cat(drawn).mean()),
        width_loss=float(fixed_N.mean()),
        whole_loss=float(losses_NL[:, -1].mean()),
        least_loss=float(losses_NL[:, 0].mean()),
        correlation=float(torch.corrcoef(torch.stack([scores_NL[:, 0].float(), losses_NL[:, 0].float()]))[0, 1]),
        gain=float(gains_N.mean()),
        gain_error=float(gains_N.std() / len(gains_N) ** 0.5),
    )


def _interpolated(losses_NL: torch.Tensor, costs_L: torch.Tensor, share: float) -> torch.Tensor:
    """[N]: the losses at a fixed width of so much compute, between those of the two levels that cost less and more."""
    above = int(torch.searchsorted(costs_L, share).clamp(1, len(costs_L) - 1))
    part = (share - float(costs_L[above - 1])) / float(costs_L[above] - costs_L[above - 1])
    return torch.lerp(losses_NL[:, above - 1], losses_NL[:, above], part)


def _losses(
    model: UnifiedDecoder, batch: SenseBatch, levels_T: torch.Tensor | None, scores: list[torch.Tensor]
) -> torch.Tensor:
    """[N], of the counted tokens."""
    counted_N = batch.weights_T.nonzero()[:, 0]
    logits_NV = model.logits(run(model, batch, levels_T, scores=scores)[counted_N]).float()
    return F.cross_entropy(logits_NV, batch.targets_T[counted_N], reduction="none")


def _grid(candidates: list[list[float]]) -> list[list[float]]:
    grid: list[list[float]] = [[]]
    for listed in candidates:
        grid = [[*given, one] for given in grid for one in listed]
    return grid
