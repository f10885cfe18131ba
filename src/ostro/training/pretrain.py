"""Contrastive pre-training of one encoder: what it makes of an input is brought near what is said of it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ostro.models.layers.encoder import Encoder, finished, unhurried
from ostro.models.ostro.encoder import StemEncoder
from ostro.training.checkpoint import load_state, optimiser_tensors, restore_optimiser, save_state, under
from ostro.training.muon import Muon
from ostro.training.pairs import Batch, Pairs
from ostro.training.precision import MixedPrecision, Precision
from ostro.training.senses.batches import moved
from ostro.training.senses.contrast import ContrastiveLoss

Watch = Callable[[int, dict[str, float]], None]


class PretrainRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Muon on matrices and kernels, AdamW on the rest; the rates rise over `warmup` of the steps and fall to zero.

    batch: pairs of a step. temperature: of InfoNCE. imitation: weight of being near to what a teacher makes of the same
    input, where there is a teacher. grids, large: as of `PhotoPairs`. ema: decay of the averaged weights that are kept.
    precision: of matrix products (autocast); weights are of fp32.
    """

    steps: int
    batch: int = 256
    matrix_rate: float = 0.03
    rate: float = 0.003
    matrix_decay: float = 0.5
    decay: float = 0.05
    momentum: float = 0.9
    warmup: float = 0.1
    temperature: float = 0.1
    imitation: float = 2.0
    width: int = 128
    ema: float = 0.999
    precision: Precision = "bf16"
    evaluate_every: int = 200
    save_every: int = 200
    grids: float = 0.0
    large: float = 0.0


class CaptionTower(nn.Module):
    """Words of a caption, averaged, through two layers: all that tells captions of these tasks apart. Not kept."""

    def __init__(self, captions: Sequence[str], width: int) -> None:
        super().__init__()
        words = sorted({word for caption in captions for word in caption.split()})
        numbers = {word: index for index, word in enumerate(words)}
        self._ids = [torch.tensor([numbers[word] for word in caption.split()]) for caption in captions]
        self.words = nn.EmbeddingBag(len(words), width, mode="mean")
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        nn.init.normal_(self.words.weight, std=0.1)

    def forward(self, captions: Sequence[int]) -> torch.Tensor:
        """Numbers of captions -> [B, width]."""
        chosen = [self._ids[caption] for caption in captions]
        offsets = torch.tensor([0, *np.cumsum([len(ids) for ids in chosen])[:-1].tolist()])
        device = self.words.weight.device
        out: torch.Tensor = self.layers(self.words(torch.cat(chosen).to(device), offsets.to(device)))
        return out


class Towers(nn.Module):
    """An encoder and its captions, with a projection into the space where they meet."""

    def __init__(self, encoder: Encoder, pairs: Pairs, hidden_size: int, width: int, taught: int = 0) -> None:
        """taught: channels of a teacher's rows."""
        super().__init__()
        self.encoder = encoder
        texts = [template.format(label) for label in pairs.labels for template in pairs.captions]
        self.captions = CaptionTower(texts, width)
        self.projection = nn.Linear(hidden_size, width, bias=False)
        self.imitation = nn.Linear(hidden_size, taught, bias=False) if taught else None

    def pooled(self, rows: Sequence[torch.Tensor], parts: tuple[int, int]) -> torch.Tensor:
        """What the encoder makes of inputs -> [B, width]: a mean over each part's tokens, projected."""
        if parts == (1, 1):
            means_BD = torch.stack([one.mean(0) for one in rows])
        else:  # All are pictures of one size, of square photos.
            down, across = parts
            side = math.isqrt(len(rows[0]) // (down * across))
            tokens = torch.stack(list(rows)).view(len(rows), down, side, across, side, -1)
            means_BD = tokens.mean((2, 4)).flatten(0, 2)
        out: torch.Tensor = self.projection(means_BD)
        return out


class Pretrainer:
    """Deterministic, resumable: a step's batch is a function of (seed, step). teacher: an encoder of the same sense and
    as many rows, of `taught` channels. device: where it is trained, the CPU without one."""

    def __init__(
        self, encoder: StemEncoder, pairs: Pairs, recipe: PretrainRecipe, *, hidden_size: int, seed: int, folder: Path,
        fingerprint: str, teacher: Encoder | None = None, taught: int = 0, device: torch.device | None = None,
    ) -> None:  # fmt: skip
        torch.manual_seed(seed)
        initialise_encoder(encoder)
        encoder.normalise()
        self._teacher = teacher if recipe.imitation else None
        self.towers = Towers(encoder, pairs, hidden_size, recipe.width, 0 if self._teacher is None else taught)
        self._device = device or torch.device("cpu")
        self.towers.to(self._device)
        if self._teacher is not None:
            self._teacher.to(self._device)
        self._precision = MixedPrecision(recipe.precision, self._device)
        self.average = copy.deepcopy(self.towers).requires_grad_(False).eval()
        self.step = 0
        self._pairs, self._recipe, self._seed = pairs, recipe, seed
        self._folder, self._fingerprint = folder, fingerprint
        self._loss = ContrastiveLoss(recipe.temperature)
        self._optimisers = _optimisers(self.towers, recipe)
        self._rates = [[group["lr"] for group in one.param_groups] for one in self._optimisers]

    def resume(self) -> bool:
        """Go on where a run in this folder was broken off; False if there is none. Raises TrainingError."""
        found = load_state(self._folder, self._fingerprint)
        if found is None:
            return False
        self.step, tensors = found
        self.towers.load_state_dict(under("model.", tensors))
        self.average.load_state_dict(under("average.", tensors))
        for index, optimiser in enumerate(self._optimisers):
            restore_optimiser(f"optimiser.{index}", optimiser, tensors)
        self._precision.restore(tensors)
        return True

    def save(self) -> None:
        tensors = {f"model.{key}": value for key, value in self.towers.state_dict().items()}
        tensors |= {f"average.{key}": value for key, value in self.average.state_dict().items()}
        for index, optimiser in enumerate(self._optimisers):
            tensors |= dict(optimiser_tensors(f"optimiser.{index}", optimiser))
        tensors |= self._precision.state()
        save_state(self._folder, self.step, self._fingerprint, tensors)

    def run(self, watch: Watch, *, until: int | None = None) -> StemEncoder:
        """Train to the last step, or to `until`; the averaged encoder, its statistics settled."""
        recipe = self._recipe
        last = recipe.steps if until is None else until
        while self.step < last:
            started = time.perf_counter()
            figures = self._train_step()
            figures["seconds"] = time.perf_counter() - started
            if self.step % recipe.evaluate_every == 0 or self.step == recipe.steps:
                for name, batches in self._pairs.validations().items():
                    figures[name] = zero_shot(self.average, self._pairs, batches)
            if self.step % recipe.save_every == 0 or self.step == last:
                self.save()
            watch(self.step, figures)
        encoder = copy.deepcopy(self.average.encoder).cpu()
        assert isinstance(encoder, StemEncoder)
        encoder.settle()
        return encoder

    def _train_step(self) -> dict[str, float]:
        recipe, templates = self._recipe, len(self._pairs.captions)
        torch.manual_seed((self._seed * 1_000_003 + self.step) % 2**63)
        done = self.step / recipe.steps
        factor = min(done / recipe.warmup, (1 - done) / (1 - recipe.warmup)) if recipe.warmup else 1 - done
        for optimiser, rates in zip(self._optimisers, self._rates, strict=True):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * max(factor, 1e-3)
        made, labels, parts = self._pairs.batch(self._seed, self.step, recipe.batch)
        inputs = moved(made, self._device)
        drawn = np.random.default_rng([self._seed, self.step, 1]).integers(0, templates, len(labels)).tolist()
        self.towers.train()
        with unhurried(), self._precision.products():
            rows = finished(self.towers.encoder.encode(inputs))
            seen_BE = self.towers.pooled(rows, parts)
            said_BE = self.towers.captions([label * templates + k for label, k in zip(labels, drawn, strict=True)])
            distance = self._distance(torch.cat(rows), inputs)
        loss = self._loss(seen_BE.float(), said_BE.float(), labels) + recipe.imitation * distance
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)
        self._precision.backward(loss)
        self._precision.step(self._optimisers)
        self.step += 1
        self._update_average()
        taught = {} if self._teacher is None else {"imitation": distance.item()}
        return {"loss": loss.item(), "rate": recipe.matrix_rate * factor, **taught}

    def _distance(self, rows_ND: torch.Tensor, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """1 - cosine of each row and what the teacher has in its place, on average; 0 without a teacher."""
        if self._teacher is None or self.towers.imitation is None:
            return rows_ND.new_zeros(())
        with torch.no_grad():
            taught_NE = torch.cat(finished(self._teacher.encode(inputs)))
        return 1 - F.cosine_similarity(self.towers.imitation(rows_ND).float(), taught_NE.float()).mean()

    def _update_average(self) -> None:
        # Short memory at first, so that the random start is forgotten.
        decay = min(self._recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for kept, new in zip(self.average.state_dict().values(), self.towers.state_dict().values(), strict=True):
                if kept.is_floating_point():
                    kept.lerp_(new, 1 - decay)
                else:
                    kept.copy_(new)


@torch.no_grad()
def zero_shot(towers: Towers, pairs: Pairs, batches: Iterable[Batch] | None = None) -> float:
    """Share of inputs, or of their parts, that are nearest to the mean of their own label's captions. batches: None
    takes those of validation."""
    towers.eval()
    device = towers.projection.weight.device
    texts = towers.captions(list(range(len(pairs.labels) * len(pairs.captions))))
    means_LE = F.normalize(texts, dim=1).view(len(pairs.labels), len(pairs.captions), -1).mean(1)
    right = count = 0
    for inputs, labels, parts in pairs.validation() if batches is None else batches:
        with unhurried(), torch.autocast(device.type, torch.bfloat16):
            seen_BE = towers.pooled(finished(towers.encoder.encode(moved(inputs, device))), parts)
        nearest = (seen_BE.float() @ F.normalize(means_LE, dim=1).T).argmax(1)
        right += int((nearest.cpu() == torch.tensor(labels)).sum())
        count += len(labels)
    return right / count


def initialise_encoder(encoder: StemEncoder) -> None:
    """Kernels and matrices by fan-in (He et al. 2015), branches of layers smaller; scales 1, shifts 0."""
    layers = max(1, len(encoder.layers))
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if parameter.dim() > 1:
                fan_in = parameter[0].numel()
                gain = (2 * layers) ** -0.5 if name.endswith(("output.weight", "down.weight")) else 1.0
                parameter.normal_(std=gain * fan_in**-0.5)
            else:
                parameter.fill_(0.0 if ".shift" in name else 1.0)


def _optimisers(towers: Towers, recipe: PretrainRecipe) -> list[torch.optim.Optimizer]:
    named = dict(towers.named_parameters())
    # The first convolution sees pixels, whose few directions Muon would make alike.
    of_muon = {
        name for name, p in named.items() if p.dim() > 1 and name.startswith(("encoder.stem.", "encoder.layers."))
    }
    of_muon.discard("encoder.stem.0.kernel.weight")
    rest = [p for name, p in named.items() if name not in of_muon]
    groups = [
        {"params": [p for p in rest if p.dim() > 1], "weight_decay": recipe.decay},
        {"params": [p for p in rest if p.dim() == 1], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.95))
    if not of_muon:
        return [adam]
    matrices = Muon(
        [named[name] for name in sorted(of_muon)],
        recipe.matrix_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.matrix_decay,
    )
    return [matrices, adam]
