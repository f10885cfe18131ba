"""The training loop: deterministic, resumable, watched."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from ostro.models.layers.decoder import Decoder
from ostro.training.checkpoint import load_state, optimiser_tensors, restore_optimiser, save_state, under
from ostro.training.muon import Muon
from ostro.training.precision import MixedPrecision
from ostro.training.recipe import OptimiserRecipe

Watch = Callable[[int, dict[str, float]], None]
# The loss of a step, and figures of it that are worth watching. It may depend on the step only.
Objective = Callable[[Decoder, int], tuple[torch.Tensor, dict[str, float]]]
# Parameters as an optimiser takes them, in groups; `rate` of a group is a factor on the recipe's, and a group with
# `matrices` is Muon's where the recipe has a rate for it.
Groups = list[dict[str, Any]]


class Trainer:
    """Trains `model` and keeps an exponential moving average of its weights, which is what the run is for.

    Randomness of a step (its batch, its dropout) is a function of (seed, step), so that stopping and resuming gives
    the weights that an unbroken run gives. groups: the parameters that are trained; None trains all. The model is
    trained on the device that it is on. Raises ConfigError for a precision that this device does not have.
    """

    def __init__(
        self,
        model: Decoder,
        objective: Objective,
        recipe: OptimiserRecipe,
        *,
        seed: int,
        folder: Path,
        fingerprint: str,
        groups: Groups | None = None,
    ) -> None:
        self.model = model
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.step = 0
        self._objective = objective
        self._recipe = recipe
        self._seed = seed
        self._folder = folder
        self._fingerprint = fingerprint
        groups = groups or decaying(model.parameters(), recipe.weight_decay)
        self._trained = [parameter for group in groups for parameter in group["params"]]
        trained = set(map(id, self._trained))
        for parameter in model.parameters():  # gradients that nobody wants would cost as much as the others
            parameter.requires_grad_(id(parameter) in trained)
        self._optimisers = optimisers(groups, recipe)
        self._rates = [[group["lr"] for group in one.param_groups] for one in self._optimisers.values()]
        self._precision = MixedPrecision(recipe.precision, self._trained[0].device)

    def resume(self) -> bool:
        """Go on where a run in this folder was broken off; False if there is none. Raises TrainingError."""
        found = load_state(self._folder, self._fingerprint)
        if found is None:
            return False
        self.step, tensors = found
        self.model.load_state_dict(under("model.", tensors))
        self.average.load_state_dict(under("average.", tensors))
        for name, optimiser in self._optimisers.items():
            restore_optimiser(name, optimiser, tensors)
        self._precision.restore(tensors)
        return True

    def save(self) -> None:
        tensors = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        tensors |= {f"average.{key}": value for key, value in self.average.state_dict().items()}
        for name, optimiser in self._optimisers.items():
            tensors |= dict(optimiser_tensors(name, optimiser))
        tensors |= self._precision.state()
        save_state(self._folder, self.step, self._fingerprint, tensors)

    def run(self, *, until: int | None = None, watch: Watch, evaluate: Callable[[Decoder], dict[str, float]]) -> None:
        """Train to `until` (default: the recipe's last step), telling `watch` the figures of every step."""
        last = self._recipe.steps if until is None else until
        while self.step < last:
            started = time.perf_counter()
            figures = self._train_step()
            figures["seconds"] = time.perf_counter() - started
            if self.step % self._recipe.evaluate_every == 0 or self.step == self._recipe.steps:
                figures |= evaluate(self.average)
            if self.step % self._recipe.save_every == 0 or self.step == last:
                self.save()
            watch(self.step, figures)

    def _train_step(self) -> dict[str, float]:
        recipe = self._recipe
        torch.manual_seed(_step_seed(self._seed, self.step))
        rate = learning_rate(recipe, self.step)
        all_of_them = list(self._optimisers.values())
        for optimiser, rates in zip(all_of_them, self._rates, strict=True):
            for group, peak in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = peak * rate / recipe.rate
        with self._precision.products():
            loss, figures = self._objective(self.model, self.step)
        for optimiser in all_of_them:
            optimiser.zero_grad(set_to_none=True)
        self._precision.backward(loss)
        for optimiser in all_of_them:
            self._precision.unscale(optimiser)
        norm = torch.nn.utils.clip_grad_norm_(self._trained, recipe.clip)
        self._precision.step(all_of_them)
        self.step += 1
        self._update_average()
        return {"loss": loss.item(), "rate": rate, "norm": norm.item(), **figures}

    def _update_average(self) -> None:
        # Short memory at first, so that the random start is forgotten.
        decay = min(self._recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for kept, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)


def learning_rate(recipe: OptimiserRecipe, step: int) -> float:
    """Linear warm-up, then a cosine down to `final_rate` of the peak."""
    if step < recipe.warmup:
        return recipe.rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.rate * (recipe.final_rate + (1 - recipe.final_rate) * 0.5 * (1 + math.cos(math.pi * done)))


def initialise(model: Decoder, seed: int) -> None:
    """Normal weights of scale 0.02, smaller where a branch adds to the residual stream (GPT-2); norms are 1."""
    torch.manual_seed(seed)
    residual = 0.02 / math.sqrt(2 * model.config.num_layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                last = name.endswith(("attention.output.weight", "feed_forward.down.weight"))
                parameter.normal_(std=residual if last else 0.02)


def append_log(path: Path, step: int, figures: dict[str, float]) -> None:
    """One JSON object a line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, **figures}) + "\n")


def decaying(parameters: Iterable[torch.nn.Parameter], decay: float, rate: float = 1.0) -> Groups:
    """Matrices decay; norms do not. rate: a factor on the recipe's."""
    listed = list(parameters)
    matrices = [parameter for parameter in listed if parameter.dim() > 1]
    vectors = [parameter for parameter in listed if parameter.dim() == 1]
    return [
        {"params": matrices, "weight_decay": decay, "rate": rate},
        {"params": vectors, "weight_decay": 0.0, "rate": rate},
    ]


def optimisers(groups: Groups, recipe: OptimiserRecipe) -> dict[str, torch.optim.Optimizer]:
    """By the name that their state is kept under."""
    of_muon: Groups = []
    rest: Groups = []
    for group in groups:
        (of_muon if group.get("matrices") and recipe.matrix_rate else rest).append(group)

    def peaks(some: Groups, rate: float) -> Groups:
        keys = ("rate", "matrices")
        return [{**{k: v for k, v in one.items() if k not in keys}, "lr": rate * one.get("rate", 1.0)} for one in some]

    found: dict[str, torch.optim.Optimizer] = {
        "optimiser": torch.optim.AdamW(peaks(rest, recipe.rate), lr=recipe.rate, betas=(0.9, 0.95))
    }
    if of_muon:
        matrices = [{**one, "weight_decay": recipe.matrix_decay} for one in peaks(of_muon, recipe.matrix_rate)]
        found["muon"] = Muon(matrices, recipe.matrix_rate)
    return found


def _step_seed(seed: int, step: int) -> int:
    return (seed * 1_000_003 + step) % 2**63
