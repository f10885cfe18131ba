"""Thresholds against a slow search, and what a gate is said to be worth against passes made one by one."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sense_data import material, tiny_decoder, write_tokenizer

from ostro.core.errors import TrainingError
from ostro.models.ostro.config import TEXT, GateConfig, LabelGroup, OstroConfig
from ostro.models.ostro.model import UnifiedDecoder
from ostro.tokenizer.mistral import TekkenTokenizer
from ostro.training.gate import calibrate, fit_gate, judge_gate
from ostro.training.senses.batches import Batcher, SenseBatch, embed
from ostro.training.senses.tasks import Manner, Tasks
from ostro.training.unified import UnifiedLoss, UnifiedObjective, run

WIDTHS = (16, 24, 64)
GROUPS = tuple(LabelGroup(name, labels) for name, labels in material().labels.items() if name == "intent")


def table(count: int, gain: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of tokens at three levels, each lower than the one before by about `gain`, and scores that know something
    of it."""
    generator = torch.Generator().manual_seed(seed)
    gains_N2 = gain * torch.rand(count, 2, generator=generator)
    first_N = 3 + torch.randn(count, generator=generator)
    losses_N3 = torch.stack([first_N, first_N - gains_N2[:, 0], first_N - gains_N2.sum(1)], 1)
    return losses_N3, gains_N2 + 0.2 * gain * torch.randn(count, 2, generator=generator)


def slow(
    losses_N3: torch.Tensor, scores_N2: torch.Tensor, thresholds: tuple[float, float]
) -> tuple[float, list[float]]:
    """Mean loss, and what share of its channels each token runs behind the gate."""
    loss, shares = 0.0, []
    for losses, scores in zip(losses_N3.tolist(), scores_N2.tolist(), strict=True):
        level = 0 if scores[0] <= thresholds[0] else 1 if scores[1] <= thresholds[1] else 2
        loss += losses[level] / len(losses_N3)
        shares.append(WIDTHS[level] / WIDTHS[-1])
    return loss, shares


def cost(shares: list[float]) -> float:
    """Of four layers, one before the gate."""
    return (WIDTHS[0] / WIDTHS[-1] + 3 * sum(shares) / len(shares)) / 4


@pytest.mark.parametrize("target", [0.26, 0.35, 0.5, 1.0])
def test_thresholds_lose_the_least_that_the_target_allows(target: float) -> None:
    losses, scores = table(120, 0.5, seed=1)
    found = calibrate(losses, scores, WIDTHS, before=1, layers=4, target=target)
    loss, shares = slow(losses, scores, (found[0], found[1]))
    assert cost(shares) <= target + 1e-6
    quantiles = torch.linspace(0, 1, 41)
    tried = [[*torch.quantile(scores[:, i], quantiles).tolist(), 99.0] for i in (0, 1)]
    allowed = [slow(losses, scores, pair) for pair in product(*tried)]
    least = min(loss for loss, shares in allowed if cost(shares) <= target + 1e-6)
    assert loss == pytest.approx(least, abs=1e-5)
    if target == 1.0:
        assert loss < losses[:, 0].mean() - 0.3, "all that there is to gain"


def test_every_kind_of_text_is_within_the_target_by_itself() -> None:
    """Of two kinds of which one has all the gain, the mean alone would let that one cost too much."""
    kinds = [table(200, 0.05, seed=2), table(50, 1.0, seed=3)]
    losses, scores = (torch.cat([kind[i] for kind in kinds]) for i in (0, 1))
    together = calibrate(losses, scores, WIDTHS, before=1, layers=4, target=0.35)
    apart = calibrate(losses, scores, WIDTHS, before=1, layers=4, target=0.35, counts=[200, 50])
    costs = [[cost(slow(*kind, (pair[0], pair[1]))[1]) for kind in kinds] for pair in (together, apart)]
    assert max(costs[0]) > 0.5
    assert max(costs[1]) <= 0.35 + 1e-6
    with pytest.raises(TrainingError, match="first level alone costs 25%"):
        calibrate(losses, scores, WIDTHS, before=1, layers=4, target=0.2)


def test_text_unlike_the_training_costs_no_more_and_chooses_nothing() -> None:
    losses, scores = table(200, 0.3, seed=4)
    alone = calibrate(losses, scores, WIDTHS, before=1, layers=4, target=0.5)
    cheap = calibrate(losses, scores, WIDTHS, before=1, layers=4, target=0.5, unlike_NL=torch.full((40, 2), -9.0))
    assert cheap == alone
    dear = scores + 1.0
    found = calibrate(losses, scores, WIDTHS, before=1, layers=4, target=0.5, unlike_NL=dear)
    assert cost(slow(losses, dear, (alone[0], alone[1]))[1]) > 0.5
    assert cost(slow(losses, dear, (found[0], found[1]))[1]) <= 0.5 + 1e-6


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TekkenTokenizer:
    return write_tokenizer(tmp_path_factory.mktemp("tekken"))


@pytest.fixture
def model() -> UnifiedDecoder:
    base = tiny_decoder(intermediate=64, layers=4)
    fields = {name: getattr(base, name) for name in base.__dataclass_fields__}
    config = OstroConfig(**fields, gate=GateConfig(1, WIDTHS, (0.0, 0.0)), labels=GROUPS, embedding=8)
    torch.manual_seed(0)
    model = UnifiedDecoder(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2) if parameter.dim() > 1 else parameter.fill_(1.0)
    return model


def batches(tokenizer: TekkenTokenizer, count: int = 2) -> list[SenseBatch]:
    tasks = Tasks(material(), {"text": 1.0, "intent": 1.0}, seed=0, manner=Manner(training=False))
    return [Batcher(tokenizer, GROUPS).batch(tasks.examples(step, 6)) for step in range(count)]


def losses_of(model: UnifiedDecoder, batch: SenseBatch, levels_T: torch.Tensor | None) -> torch.Tensor:
    counted_N = batch.weights_T.nonzero()[:, 0]
    with torch.no_grad():
        logits_NV = model.logits(run(model, batch, levels_T)[counted_N])
    return F.cross_entropy(logits_NV, batch.targets_T[counted_N], reduction="none")


def test_what_a_gate_is_worth_is_what_passes_give(model: UnifiedDecoder, tokenizer: TekkenTokenizer) -> None:
    assert model.gate is not None
    made = batches(tokenizer)

    def judged(*thresholds: float) -> dict[str, float]:
        assert model.gate is not None
        model.gate.thresholds = thresholds
        report = judge_gate(model, made, list(thresholds))
        return {name: getattr(report, name) for name in report.__struct_fields__ if name != "thresholds"}

    by_level = [
        torch.cat([losses_of(model, one, torch.full_like(one.modalities_T, level)) for one in made])
        for level in range(3)
    ]
    means = [float(one.mean()) for one in by_level]
    low, high = judged(99.0, 99.0), judged(-99.0, -99.0)
    for name in ("loss", "drawn_loss", "width_loss", "least_loss"):
        assert low[name] == pytest.approx(means[0], abs=1e-5)
    for name in ("loss", "drawn_loss", "width_loss", "whole_loss"):
        assert high[name] == pytest.approx(means[2], abs=1e-5)
    assert (low["share"], high["share"]) == pytest.approx((0.25, (0.25 + 3) / 4))

    scores: list[torch.Tensor] = []
    for one in made:
        with torch.no_grad():
            run(model, one, torch.full_like(one.modalities_T, 2), scores=scores)
    text = [(one.modalities_T == TEXT) & (one.segments_T >= 0) for one in made]
    of_text = torch.cat([each[mask] for each, mask in zip(scores, text, strict=True)])
    middle = of_text.median(0).values.tolist()
    found = judged(*middle)
    gated = torch.cat([losses_of(model, one, None) for one in made])
    assert found["loss"] == pytest.approx(float(gated.mean()), abs=1e-5)
    levels = [0 if a <= middle[0] else 1 if b <= middle[1] else 2 for a, b in of_text.tolist()]
    share = (0.25 + 3 * sum(WIDTHS[level] / 64 for level in levels) / len(levels)) / 4
    assert found["share"] == pytest.approx(share, abs=1e-6)
    assert found["drawn_loss"] != pytest.approx(found["loss"], abs=1e-6)
    # At equal compute, of the two widths that cost less and more.
    costs = [(0.25 + 3 * width / 64) / 4 for width in WIDTHS]
    at = next(i for i in (0, 1) if costs[i] <= share <= costs[i + 1])
    part = (share - costs[at]) / (costs[at + 1] - costs[at])
    assert found["width_loss"] == pytest.approx((1 - part) * means[at] + part * means[at + 1], abs=1e-5)
    gains = torch.lerp(by_level[at], by_level[at + 1], part) - gated
    assert found["gain"] == pytest.approx(found["width_loss"] - found["loss"], abs=1e-5)
    assert found["gain_error"] == pytest.approx(float(gains.std()) / len(gains) ** 0.5, rel=1e-3)
    counted = torch.cat([each[one.weights_T.nonzero()[:, 0], 0] for each, one in zip(scores, made, strict=True)])
    pair = torch.stack([counted, by_level[0]])
    assert found["correlation"] == pytest.approx(float(torch.corrcoef(pair)[0, 1]), abs=1e-5)


def objective(tokenizer: TekkenTokenizer, **changes: float) -> UnifiedLoss:
    tasks = Tasks(material(), {"text": 1.0, "intent": 2.0}, seed=0, manner=Manner(training=True))
    recipe = UnifiedObjective(examples=8, contrast=0.0, **changes)  # type: ignore[arg-type]  # numbers of both kinds
    return UnifiedLoss(recipe, tasks, None, Batcher(tokenizer, GROUPS))


def test_the_loss_of_a_step_is_the_sum_of_its_parts(model: UnifiedDecoder, tokenizer: TekkenTokenizer) -> None:
    torch.manual_seed(0)
    total, figures = objective(tokenizer, labels=0.7, whole=1.0)(model, 0)
    assert set(figures) == {"text", "labels"}
    assert total.item() == pytest.approx(figures["text"] + 0.7 * figures["labels"], rel=1e-5)
    total.backward()  # type: ignore[no-untyped-call]  # torch has no hints here
    assert model.label_head is not None
    for parameter in model.label_head.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_a_gate_is_fitted_to_what_the_next_level_gains(model: UnifiedDecoder, tokenizer: TekkenTokenizer) -> None:
    """Least squares, as NumPy solves it, over the streams that the gate reads."""
    assert model.gate is not None
    made = batches(tokenizer, 3)
    fit_gate(model, iter(made), ridge=0.0)
    rows, gains, told = [], [], []
    for batch in made:
        counted_N = batch.weights_T.nonzero()[:, 0]
        by_level = [losses_of(model, batch, torch.full_like(batch.modalities_T, level)) for level in range(3)]
        gains.append(torch.stack([by_level[0] - by_level[1], by_level[1] - by_level[2]], 1))
        with torch.no_grad():
            first_T = torch.zeros_like(batch.modalities_T)
            stream_TD = model(embed(model, batch), batch.positions_T, batch.context(), range(1), levels_T=first_T)
            rows.append(model.gate.norm(stream_TD)[counted_N])
            told.append(model.gate(stream_TD)[counted_N])
    x = np.concatenate([torch.cat(rows).numpy(), np.ones((sum(map(len, rows)), 1))], 1)
    solved, *_ = np.linalg.lstsq(x, torch.cat(gains).numpy(), rcond=None)
    np.testing.assert_allclose(torch.cat(told).numpy(), x @ solved, atol=2e-3)
    before = torch.cat(told).var(0)
    fit_gate(model, iter(made), ridge=10.0)
    with torch.no_grad():
        after = model.gate(stream_TD).var(0)
    assert (after < before / 2).all(), "what is guessed is nearer to the mean"


def test_text_runs_levels_by_chance_but_for_the_share_of_whole_steps(
    model: UnifiedDecoder, tokenizer: TekkenTokenizer
) -> None:
    (batch,) = batches(tokenizer, 1)
    drawn = [objective(tokenizer, whole=0.0)._levels(model, batch) for _ in range(3)]
    whole = [objective(tokenizer, whole=1.0)._levels(model, batch) for _ in range(3)]
    for levels in drawn:
        assert levels is not None
        assert set(levels.tolist()) == {0, 1, 2}
    assert all(levels is not None and set(levels.tolist()) == {2} for levels in whole)
    half = [objective(tokenizer, whole=0.5)._levels(model, batch) for _ in range(60)]
    count = sum(levels is not None and set(levels.tolist()) == {2} for levels in half)
    assert 15 < count < 45
    seen = batch.modalities_T.clone()
    seen[::2] = 1
    batch.modalities_T.copy_(seen)
    levels = objective(tokenizer, whole=0.0)._levels(model, batch)
    assert levels is not None
    assert set(levels[::2].tolist()) == {2}, "what is sensed runs all channels"
