"""A recipe and a data folder to a model that reads, sees, hears and follows series: encoders first, each by itself
against captions; then they are held while the decoder learns with them; then all of it together. A smaller model learns
the same from it, and is rounded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ostro.compression.quantise import Texts, matrix_shapes, quantise_folder
from ostro.compression.recipe import Recipe as Rounding
from ostro.compression.recipe import treatments
from ostro.core.errors import ConfigError, TrainingError
from ostro.models.layers.decoder import Decoder
from ostro.models.ostro.config import OstroConfig
from ostro.models.ostro.encoder import StemEncoder
from ostro.models.ostro.model import UnifiedDecoder
from ostro.training.family_recipe import GATE_TARGET, EdgeRecipe, FamilyRecipe, MemberRecipe, StageRecipe
from ostro.training.gate import GateReport, fit_gate
from ostro.training.gate_texts import calibrate_gate, fitting
from ostro.training.loop import Groups, Trainer, Watch, append_log, initialise
from ostro.training.pairs import DigitPairs, Pairs, PhotoPairs, SignalPairs
from ostro.training.prepared import CPU, Family, config_of, prepare, stems_of
from ostro.training.pretrain import Pretrainer, initialise_encoder
from ostro.training.recipe import Customers
from ostro.training.senses.batches import Batcher
from ostro.training.senses.tasks import Manner
from ostro.training.unified import (
    CAPTIONED,
    UnifiedLoss,
    align_groups,
    joint_groups,
    level_losses,
    run,
)
from ostro.weights.loader import load_model
from ostro.weights.writer import save_checkpoint

# Examples that rounding is calibrated with.
_EXERCISES = 512
# Added to the recipe's for the examples of a stage; numbers between are those of other uses.
_SEEDS = {"align": 0, "joint": 10}


# Told what is being done: a stage's name, its step, how many it has, and its figures.
FamilyWatch = Callable[[str, int, int, dict[str, float]], None]


@dataclass(frozen=True)
class Trained:
    """A checkpoint that was written into `family.folder / "model"`; what its gate was calibrated to."""

    family: Family
    gate: GateReport | None


def run_family(
    recipe: FamilyRecipe, data: Path, out: Path, *, watch: FamilyWatch, device: torch.device | None = None
) -> list[Trained]:
    """Train, or go on training: the checkpoint in `out / "model"`, and where the recipe has one the smaller model that
    learns from it, in `out / "edge" / "model"`. device: the CPU without one. Raises TrainingError, ConfigError."""
    family = dataclasses.replace(prepare(recipe, data, out), device=device or CPU)
    check(recipe, family.config)
    if recipe.edge is not None:  # What cannot be is told before hours are spent.
        check_edge(family, recipe.edge)
    model = _train(family, watch)
    trained = [Trained(family, finish(family, model))]
    if recipe.edge is not None:
        smaller = edge_of(family, recipe.edge, model)
        trained.append(Trained(smaller, finish(smaller, _train(smaller, watch), recipe.edge.quantization)))
    return trained


def _train(family: Family, watch: FamilyWatch) -> UnifiedDecoder:
    recipe = family.recipe
    encoders = {sense: _encoder(family, sense, watch) for sense in recipe.encoders}
    model = UnifiedDecoder(family.config)
    initialise_unified(model, recipe.seed)  # on the CPU, so that a seed is the same weights everywhere
    for sense, tensors in encoders.items():
        own = {name: value for name, value in tensors.items() if not name.startswith("projector.")}
        encoder = model.encoder(sense)
        assert encoder is not None
        left = encoder.load_state_dict(own, strict=False)
        assert not left.unexpected_keys
        assert all(name.startswith("projector.") for name in left.missing_keys)
    model.to(family.device)
    if family.teacher is not None:
        family.teacher.to(family.device)
    decay = recipe.align.optimiser.weight_decay
    model = _stage(family, "align", recipe.align, model, align_groups(model, decay), watch)
    joint = joint_groups(model, recipe.joint.optimiser.weight_decay, recipe.joint.encoder_rate)
    model = _stage(family, "joint", recipe.joint, model, joint, watch)
    if model.gate is not None:
        fit_gate(model.eval(), fitting(family))
    return model.cpu()


def check(recipe: FamilyRecipe, config: OstroConfig) -> None:
    """Raises ConfigError for encoders without a recipe of their training, and for a gate that cannot save enough."""
    missing = [sense for sense in recipe.encoders if sense not in recipe.pretrain]
    if missing:
        raise ConfigError(f"{recipe.name} has no recipe for training {', '.join(missing)}.", param="pretrain")
    gate = config.gate
    if gate is not None and gate.widths[0] > recipe.gate_target * gate.widths[-1]:
        raise ConfigError(
            f"{recipe.name}: the first {gate.widths[0]} channels alone cost more than the {recipe.gate_target:.0%} of "
            f"{gate.widths[-1]} that text may cost.",
            param="gate_target",
        )


def check_edge(family: Family, edge: EdgeRecipe) -> None:
    """Raises ConfigError for a smaller model that cannot learn from the larger, or not be rounded as is asked."""
    recipe, config = _smaller(family, edge)
    check(recipe, config)
    with torch.device("meta"):
        shapes = dict(matrix_shapes(UnifiedDecoder(config)))
    if edge.quantization.scaling != "none":
        raise ConfigError(f"{edge.name}: no scales are folded into this architecture.", param="scaling")
    treatments(edge.quantization, shapes)


def edge_of(family: Family, edge: EdgeRecipe, teacher: UnifiedDecoder) -> Family:
    """What the smaller model's run is made of: the same data and vocabulary. Raises ConfigError."""
    recipe, config = _smaller(family, edge)
    folder = family.folder / "edge"
    folder.mkdir(exist_ok=True)
    (folder / "tekken.json").write_bytes((family.folder / "tekken.json").read_bytes())
    # Whom it learns from matters, and what is done with it afterwards does not.
    bare = msgspec.structs.replace(edge, card=None, gate_target=GATE_TARGET, quantization=Rounding())
    digest = hashlib.sha256(family.fingerprint.encode() + msgspec.json.encode(bare))
    for name, value in teacher.state_dict().items():
        # Its gate is fitted anew whenever a run goes on, and teaches nothing: a teacher runs all channels.
        if not name.startswith("gate."):
            digest.update(value.float().cpu().numpy().tobytes())
    return dataclasses.replace(
        family,
        recipe=recipe,
        folder=folder,
        config=config,
        fingerprint=digest.hexdigest(),
        teacher=teacher.requires_grad_(False).eval(),
    )


def _smaller(family: Family, edge: EdgeRecipe) -> tuple[FamilyRecipe, OstroConfig]:
    shared = {name: getattr(edge, name) for name in MemberRecipe.__struct_fields__}
    recipe = msgspec.structs.replace(family.recipe, edge=None, **shared)
    stems = stems_of(recipe, {})
    for stem, other in zip(stems, stems_of(family.recipe, {}), strict=False):
        if (stem.modality, stem.side) != (other.modality, other.side):
            raise ConfigError(
                f"The encoder '{stem.modality}' of {edge.name} has tokens of {stem.side} elements; that of "
                f"{family.recipe.name}, from which it learns, has the sense '{other.modality}' with {other.side}.",
                param="encoders",
            )
    if len(stems) != len(family.recipe.encoders):
        raise ConfigError(f"{edge.name} must have the senses of {family.recipe.name}.", param="encoders")
    return recipe, config_of(recipe, family.tokenizer, family.train)


def finish(family: Family, model: UnifiedDecoder, quantization: Rounding | None = None) -> GateReport | None:
    """Write the checkpoint, in bfloat16 or rounded, and calibrate the gate of what was written, on text that training
    has not seen."""
    folder = family.folder / "model"
    dense = folder if quantization is None else family.folder / "dense"
    save_checkpoint(model, dense, dtype=torch.bfloat16)
    (dense / "tekken.json").write_bytes((family.folder / "tekken.json").read_bytes())
    if quantization is not None:
        quantise_folder(dense, folder, quantization, _calibration(family), force=True)
    if family.config.gate is None:
        return None
    written = load_model(folder, dtype=torch.float32)
    assert isinstance(written, UnifiedDecoder)
    report = calibrate_gate(family, written)
    file = folder / "config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    values["gate"]["thresholds"] = report.thresholds
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    (family.folder / "gate.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    return report


def _calibration(family: Family) -> Texts:
    """Plays as text; and examples of all tasks, as training has them, through every layer and head."""
    length = family.recipe.row_length
    encode = family.tokenizer.encode

    def rows(text: str, count: int) -> torch.Tensor:
        ids = torch.tensor(encode(text[: 8 * count * length]))
        return ids[: len(ids) // length * length].view(-1, length)[:count]

    tasks = family.tasks(family.recipe.joint.tasks, Manner(training=True), seed=4)
    batcher = Batcher(family.tokenizer, family.config.labels, row_length=1)

    def exercise(model: Decoder) -> None:
        assert isinstance(model, UnifiedDecoder)
        for example in tasks.examples(0, _EXERCISES):
            batch = batcher.batch([example])  # alone: padding would be counted, and serving has none
            ends_ND = run(model, batch, None)[batch.ends_N]
            model.label_logits(ends_ND)
            if model.embedding_head is not None:
                model.embedding_head(ends_ND)

    return Texts(rows(family.train.text, 16), rows(family.validation.text, 16), exercise)


def initialise_unified(model: UnifiedDecoder, seed: int) -> None:
    """As the dense decoder; what is switched on begins as if it were not: routes and adapters add nothing."""
    initialise(model, seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if (
                name.endswith((".router.weight", "gate.score.weight"))
                or (name.startswith("adapters.") and name.endswith("up.weight"))
                or ".bias." in name
                or name.endswith(".bias.weight")
            ):
                parameter.zero_()
    for encoder in model.encoders.values():
        assert isinstance(encoder, StemEncoder)
        initialise_encoder(encoder)


def _encoder(family: Family, sense: str, watch: FamilyWatch) -> dict[str, torch.Tensor]:
    """A pre-trained encoder's weights, from where an earlier run of the same recipe left them. Raises TrainingError."""
    kept = family.folder / "encoders" / f"{sense}.safetensors"
    recipe, fingerprint = family.recipe.pretrain[sense], _encoder_fingerprint(family, sense)
    if kept.is_file():
        return _kept_encoder(kept, fingerprint)
    config = next(one for one in family.config.encoders if one.modality == sense)
    encoder = config.build(family.config.hidden_size)
    assert isinstance(encoder, StemEncoder)
    trainer = Pretrainer(
        encoder,
        _pairs(family, sense),
        recipe,
        hidden_size=family.config.hidden_size,
        seed=family.recipe.seed,
        folder=family.folder / f"state-{sense}",
        fingerprint=fingerprint,
        teacher=None if family.teacher is None else family.teacher.encoder(sense),
        taught=0 if family.teacher is None else family.teacher.config.hidden_size,
        device=family.device,
    )
    trainer.resume()
    trained = trainer.run(_recorder(family, f"{sense} encoder", recipe.steps, watch))
    kept.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous() for name, value in trained.state_dict().items()}
    save_file(tensors, kept.with_suffix(".part"), metadata={"recipe": fingerprint})
    kept.with_suffix(".part").replace(kept)
    return tensors


def _kept_encoder(path: Path, fingerprint: str) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        if (file.metadata() or {}).get("recipe") != fingerprint:
            raise TrainingError(
                f"{path} is an encoder of another recipe, other data or another teacher. Give another folder for this "
                "run, or remove that file to train the encoder anew."
            )
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict


def _encoder_fingerprint(family: Family, sense: str) -> str:
    """Of all that an encoder depends on: not of the decoder's recipe, nor of how customers ask."""
    recipe = family.recipe
    data = msgspec.structs.replace(recipe.data, customers=Customers())
    parts = (recipe.seed, recipe.encoders[sense], recipe.pretrain[sense], data, recipe.shape.hidden_size)
    digest = hashlib.sha256(msgspec.json.encode(parts) + family.data.encode())
    if family.teacher is not None:
        encoder = family.teacher.encoder(sense)
        assert encoder is not None
        for value in encoder.state_dict().values():
            digest.update(value.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _stage(
    family: Family,
    name: str,
    stage: StageRecipe,
    model: UnifiedDecoder,
    groups: Groups,
    watch: FamilyWatch,
) -> UnifiedDecoder:
    """One stage of training the whole; its averaged model."""
    training = Manner(training=True)
    captioned = {task: share for task, share in stage.tasks.items() if task in CAPTIONED}
    seed = _SEEDS[name]  # or every stage would begin with the examples of the one before
    objective = UnifiedLoss(
        stage.objective,
        family.tasks(stage.tasks, training, seed=seed),
        family.tasks(captioned, training, seed=seed + 1) if captioned else None,
        family.batcher(stage.objective.asked, stage.objective.plain, family.device),
        dropout=stage.optimiser.dropout,
        label_smoothing=stage.optimiser.label_smoothing,
        teacher=family.teacher,
    )
    trainer = Trainer(
        model,
        objective,
        stage.optimiser,
        seed=family.recipe.seed + seed,
        folder=family.folder / f"state-{name}",
        fingerprint=family.fingerprint,
        groups=groups,
    )
    trainer.resume()
    trainer.run(watch=_recorder(family, name, stage.optimiser.steps, watch), evaluate=_quick(family, stage))
    average = trainer.average
    assert isinstance(average, UnifiedDecoder)
    return average.requires_grad_(True)


def _quick(family: Family, stage: StageRecipe) -> Callable[[Decoder], dict[str, float]]:
    """The next token's loss on validation examples, which costs seconds."""
    tasks, batcher = family.tasks(stage.tasks, Manner(training=False)), family.batcher(device=family.device)

    def measure(model: Decoder) -> dict[str, float]:
        assert isinstance(model, UnifiedDecoder)
        losses, _ = level_losses(model, [batcher.batch(tasks.examples(step, 32)) for step in range(4)])
        return {"validation_loss": float(losses[:, -1].mean())}

    return measure


def _recorder(family: Family, stage: str, steps: int, watch: FamilyWatch) -> Watch:
    log = family.folder / f"log-{stage.replace(' ', '-')}.jsonl"
    stage = stage if family.teacher is None else f"edge {stage}"

    def record(step: int, figures: dict[str, float]) -> None:
        append_log(log, step, figures)
        watch(stage, step, steps, figures)

    return record


def _pairs(family: Family, sense: str) -> Pairs:
    if sense == "image":
        assert family.photos is not None
        recipe = family.recipe.pretrain[sense]
        return PhotoPairs(*family.photos, recipe.grids, recipe.large)
    if sense == "audio":
        assert family.digits is not None
        assert family.senses.audio is not None
        return DigitPairs(family.digits, family.senses.audio)
    assert family.senses.series is not None
    return SignalPairs(family.senses.series)
