"""The loop learns, repeats itself exactly, and goes on where it was broken off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from ostro.core.errors import TrainingError
from ostro.models.layers.context import DenseContext
from ostro.models.layers.decoder import Decoder
from ostro.training.batches import Batches, pack
from ostro.training.conversations import Row
from ostro.training.loop import Groups, Trainer, initialise, learning_rate, optimisers
from ostro.training.objective import next_token_loss
from ostro.training.recipe import OptimiserRecipe, Recipe
from ostro.training.run import Prepared, next_tokens, prepare, run_recipe


def trainer(recipe: Recipe, prepared: Prepared, folder: Path) -> Trainer:
    model = Decoder(recipe.model.config(recipe.tokenizer.vocab_size))
    initialise(model, recipe.seed)
    batches = Batches(recipe, prepared.renderer, prepared.split.train, prepared.train_text)
    objective = next_tokens(batches, recipe.train)
    return Trainer(model, objective, recipe.train, seed=recipe.seed, folder=folder, fingerprint=prepared.fingerprint)


def run(one: Trainer, until: int | None = None) -> list[float]:
    losses: list[float] = []
    one.run(until=until, watch=lambda step, figures: losses.append(figures["loss"]), evaluate=lambda model: {})
    return losses


def weights(one: Trainer) -> dict[str, torch.Tensor]:
    return {**one.model.state_dict(), **{f"average.{k}": v for k, v in one.average.state_dict().items()}}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_two_runs_give_the_same_weights_bit_for_bit(recipe: Recipe, data: Path, tmp_path: Path, precision: Any) -> None:
    recipe = msgspec.structs.replace(recipe, train=msgspec.structs.replace(recipe.train, precision=precision))
    prepared = prepare(recipe, data, tmp_path / "out")
    first, second = (trainer(recipe, prepared, tmp_path / name) for name in ("a", "b"))
    assert run(first) == run(second)
    assert_same(weights(first), weights(second))


def test_a_resumed_run_gives_the_weights_of_an_unbroken_one(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    prepared = prepare(recipe, data, tmp_path / "out")
    unbroken = trainer(recipe, prepared, tmp_path / "a")
    losses = run(unbroken)
    broken = trainer(recipe, prepared, tmp_path / "b")
    run(broken, until=6)
    resumed = trainer(recipe, prepared, tmp_path / "b")
    assert resumed.resume()
    assert resumed.step == 6
    assert run(resumed) == losses[6:]
    assert_same(weights(unbroken), weights(resumed))


@pytest.mark.parametrize(
    ("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_products_are_of_the_type_that_was_told(
    recipe: Recipe, data: Path, tmp_path: Path, precision: Any, expected: torch.dtype
) -> None:
    recipe = msgspec.structs.replace(recipe, train=msgspec.structs.replace(recipe.train, precision=precision))
    one = trainer(recipe, prepare(recipe, data, tmp_path / "out"), tmp_path / "a")
    seen: list[torch.dtype] = []
    one.model.layers[0].feed_forward.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    run(one, until=2)
    assert set(seen) == {expected}
    assert {parameter.dtype for parameter in one.model.parameters()} == {torch.float32}


def test_a_step_whose_gradients_overflow_is_left_out(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    """Half precision ends at 65504: the scale of losses is halved until gradients fit, and kept across a break."""
    recipe = msgspec.structs.replace(recipe, train=msgspec.structs.replace(recipe.train, precision="fp16"))
    prepared = prepare(recipe, data, tmp_path / "out")
    one = trainer(recipe, prepared, tmp_path / "a")
    one._precision._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    run(one, until=1)
    assert_same(dict(one.model.state_dict()), before)
    other = trainer(recipe, prepared, tmp_path / "a")
    assert other.resume()
    assert other._precision.state()["scaler"].tolist() == [2.0**59, 0.0]


def test_another_recipes_run_is_not_continued(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    prepared = prepare(recipe, data, tmp_path / "out")
    run(trainer(recipe, prepared, tmp_path / "a"), until=4)
    changed = msgspec.structs.replace(recipe, train=msgspec.structs.replace(recipe.train, rate=0.5))
    other = prepare(changed, data, tmp_path / "out")
    with pytest.raises(TrainingError, match="another recipe"):
        trainer(changed, other, tmp_path / "a").resume()
    assert not trainer(recipe, prepared, tmp_path / "nothing here").resume()


def test_it_learns(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    longer = msgspec.structs.replace(recipe, train=msgspec.structs.replace(recipe.train, steps=300, evaluate_every=300))
    figures = run_recipe(longer, data, tmp_path / "out", watch=lambda step, figures: None)
    assert figures["intent_accuracy"] > 0.8
    assert 0 < figures["text_loss"] < 3, "the held-out verse is measured, short as it is"
    logged = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logged] == list(range(1, 301))
    assert logged[-1]["loss"] < logged[0]["loss"] / 2


def test_a_batch_without_targets_is_refused_and_its_mask_shown(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    prepared = prepare(recipe, data, tmp_path / "out")
    model = trainer(recipe, prepared, tmp_path / "a").model
    batch = pack([Row([1, 5, 6, 7], [0.0] * 4)], pad=0, length=8)
    with pytest.raises(TrainingError, match=r"no target.*\(00000000"):
        next_token_loss(model, batch)


def test_packed_documents_do_not_see_each_other(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    """The loss of two documents in one row is that of each alone."""
    prepared = prepare(recipe, data, tmp_path / "out")
    model = trainer(recipe, prepared, tmp_path / "a").model
    rows = [Row([1, 50, 60, 70, 80], [0, 1, 1, 1, 1]), Row([1, 90, 91, 92], [0, 1, 1, 1])]
    together = pack(rows, pad=0, length=12)
    assert together.rows == 1
    hidden = model(together.inputs_T, together.positions_T, DenseContext(1, segments_T=together.segments_T))
    for index, row in enumerate(rows):
        ids = torch.tensor(row.tokens[:-1])
        alone = model(ids, torch.arange(len(ids)), DenseContext())
        torch.testing.assert_close(hidden[together.segments_T == index], alone, atol=1e-5, rtol=1e-5)


def test_targets_are_answers_only_unless_questions_count(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    """What is predicted with full weight is each answer and its end, nothing else."""
    silent = msgspec.structs.replace(
        recipe,
        train=msgspec.structs.replace(recipe.train, question_loss=0.0),
        data=msgspec.structs.replace(recipe.data, text_share=0.0),
    )
    prepared = prepare(silent, data, tmp_path / "out")
    renderer = prepared.renderer
    batches = Batches(silent, renderer, prepared.split.train, prepared.train_text)
    answers = {tuple(renderer.encode(label)) for label in {q.label for q in prepared.split.train}}
    for step in range(4):
        batch = batches.batch(step)
        assert set(batch.weights_T.tolist()) == {0.0, 1.0}
        answer: list[int] = []
        for token, weight in zip(batch.targets_T.tolist(), batch.weights_T.tolist(), strict=True):
            if not weight:
                assert not answer
                continue
            if token == renderer.special.eos:
                assert tuple(answer) in answers
                answer = []
            else:
                answer.append(token)


def test_every_question_is_seen_once_an_epoch(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    prepared = prepare(recipe, data, tmp_path / "out")
    batches = Batches(recipe, prepared.renderer, prepared.split.train, prepared.train_text)
    count = len(prepared.split.train)
    for epoch in range(2):
        drawn = [batches._question(epoch * count + index).text for index in range(count)]
        assert sorted(drawn) == sorted(question.text for question in prepared.split.train)


def test_learning_rate_warms_up_and_falls(recipe: Recipe) -> None:
    rates = [learning_rate(recipe.train, step) for step in range(recipe.train.steps)]
    assert rates[0] == pytest.approx(recipe.train.rate / 2)
    assert rates[1] == pytest.approx(recipe.train.rate)
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[-1] > recipe.train.rate * recipe.train.final_rate


def test_groups_of_as_many_parameters_are_not_compared() -> None:
    """Comparing them would compare tensors, whose truth is ambiguous or whose shapes differ."""
    matrices, others = ([torch.nn.Parameter(torch.zeros(*shape)) for _ in range(2)] for shape in ((3, 4), (5, 6)))
    groups: Groups = [
        {"params": matrices, "weight_decay": 0.0, "matrices": True},
        {"params": others, "weight_decay": 0.0, "rate": 0.1},
    ]
    made = optimisers(groups, OptimiserRecipe(steps=1, rate=0.5, matrix_rate=0.25))
    assert [group["params"] for group in made["muon"].param_groups] == [matrices]
    assert [group["lr"] for group in made["optimiser"].param_groups] == [0.05]
