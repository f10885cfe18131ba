"""Calibrates the gate of a trained model: where its thresholds are, so that text costs what it may cost."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import torch

from ostro.core.errors import TrainingError

# Quantiles of the scores that are tried as thresholds.
_QUANTILES = 41


class GateReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a calibration found, on the tokens that it was given.

    share: of the full feed-forward compute, layers before the gate included. loss: mean (nats) at the levels that the
    gate chooses; fixed_loss: at levels drawn by chance in the same shares, so at equal compute; whole_loss: with all
    channels; least_loss: with the fewest. correlation: Pearson's, of the first score with the loss at the first level.
    """

    thresholds: list[float]
    share: float
    loss: float
    fixed_loss: float
    whole_loss: float
    least_loss: float
    correlation: float


def calibrate(
    losses_NL: torch.Tensor, scores_NL: torch.Tensor, widths: Sequence[int], *, before: int, layers: int, target: float
) -> GateReport:
    """The thresholds of least loss whose compute is at most `target` of the whole.

    losses_NL: of each text token at each level, [N, levels], one level for all tokens of a pass. scores_NL: the gate's,
    [N, levels - 1]. before: layers in front of the gate, which text runs at the first level; of `layers`.
    Raises TrainingError where even the first level costs more than the target.
    """
    count = len(widths)
    if losses_NL.shape[1] != count or scores_NL.shape[1] != count - 1:
        raise TrainingError(f"There are losses of {losses_NL.shape[1]} levels and {count} widths.")
    shares_L = torch.tensor([width / widths[-1] for width in widths], dtype=torch.float64)
    least = float(shares_L[0])
    if least > target + 1e-9:
        raise TrainingError(f"The first level alone costs {least:.0%} of the compute; the target is {target:.0%}.")
    quantiles = torch.linspace(0, 1, _QUANTILES)
    candidates = [torch.quantile(scores_NL[:, i].float(), quantiles).tolist() for i in range(count - 1)]
    for listed in candidates:
        listed.append(listed[-1] + 1.0)  # above all of them: nothing rises

    def judge(thresholds: list[float]) -> tuple[float, float, torch.Tensor]:
        levels_N = (scores_NL > scores_NL.new_tensor(thresholds)).long().cumprod(1).sum(1)
        behind = float(shares_L[levels_N].mean())
        share = (before * least + (layers - before) * behind) / layers
        return float(losses_NL.gather(1, levels_N[:, None]).mean()), share, levels_N

    best: tuple[float, float, torch.Tensor, list[float]] | None = None
    for thresholds in _grid(candidates):
        loss, share, levels_N = judge(thresholds)
        if share <= target + 1e-9 and (best is None or loss < best[0]):
            best = (loss, share, levels_N, thresholds)
    assert best is not None, "thresholds above all scores cost the least there is"
    loss, share, levels_N, thresholds = best
    drawn_L = torch.bincount(levels_N, minlength=count).double() / len(levels_N)
    return GateReport(
        thresholds=thresholds,
        share=share,
        loss=loss,
        fixed_loss=float((losses_NL.double().mean(0) * drawn_L).sum()),
        whole_loss=float(losses_NL[:, -1].mean()),
        least_loss=float(losses_NL[:, 0].mean()),
        correlation=float(torch.corrcoef(torch.stack([scores_NL[:, 0].float(), losses_NL[:, 0].float()]))[0, 1]),
    )


def _grid(candidates: list[list[float]]) -> list[list[float]]:
    grid: list[list[float]] = [[]]
    for listed in candidates:
        grid = [[*given, one] for given in grid for one in listed]
    return grid
