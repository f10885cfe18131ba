"""A recipe and a data folder to a model that reads, sees, hears and follows series: encoders first, each by itself
against captions; then they are held while the decoder learns with them; then all of it together. A smaller model learns
the same from it, and is rounded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ostro.compression.quantise import Texts, matrix_shapes, quantise_folder
from ostro.compression.recipe import Recipe as Rounding
from ostro.compression.recipe import treatments
from ostro.compression.text import SAMPLE
from ostro.core.errors import ConfigError, TrainingError
from ostro.media.senses import Senses, read_senses
from ostro.models.layers.decoder import Decoder
from ostro.models.ostro.config import AdapterConfig, GateConfig, LabelGroup, OstroConfig
from ostro.models.ostro.encoder import StemEncoder
from ostro.models.ostro.model import UnifiedDecoder
from ostro.models.ostro.stems import StemConfig
from ostro.tokenizer import load_tokenizer
from ostro.tokenizer.base import PLACEHOLDERS, Tokenizer
from ostro.training.data import Question, read_labels, read_questions, read_text, split_questions, split_text
from ostro.training.family_recipe import GATE_TARGET, EdgeRecipe, FamilyData, FamilyRecipe, MemberRecipe, StageRecipe
from ostro.training.gate import GateReport, calibrate, fit_gate, judge_gate
from ostro.training.loop import Groups, Trainer, Watch, append_log, initialise
from ostro.training.pairs import DigitPairs, Pairs, PhotoPairs, SignalPairs
from ostro.training.pretrain import Pretrainer, initialise_encoder
from ostro.training.senses.batches import Batcher, SenseBatch
from ostro.training.senses.digits import DigitSplit, read_digits, split_digits
from ostro.training.senses.examples import Example, texts_of
from ostro.training.senses.photos import Photos, read_photos, split_photos
from ostro.training.senses.tasks import TEXT_PIECE, Manner, Material, Tasks
from ostro.training.tokenizer import train_tekken, write_tekken
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

# Examples that the vocabulary is learnt from, beside all questions and the text.
_VOCABULARY_EXAMPLES = 4000
# Examples that rounding is calibrated with.
_EXERCISES = 512
# Batches that a gate is fitted to, and examples of each.
_FITTED_STEPS, _FITTED_EXAMPLES = 60, 48
_CPU = torch.device("cpu")
# Added to the recipe's for the examples of a stage; numbers between are those of other uses.
_SEEDS = {"align": 0, "joint": 10}


@dataclass(frozen=True)
class Family:
    """What a run is made of once its data is read. data: a digest of it. device: where it is trained; it is measured on
    the CPU."""

    recipe: FamilyRecipe
    folder: Path
    tokenizer: Tokenizer
    senses: Senses
    train: Material
    validation: Material
    photos: tuple[Photos, Photos] | None
    digits: DigitSplit | None
    config: OstroConfig
    fingerprint: str
    data: str
    teacher: UnifiedDecoder | None = None
    device: torch.device = _CPU

    def tasks(self, shares: Mapping[str, float], manner: Manner, seed: int = 0) -> Tasks:
        material = self.train if manner.training else self.validation
        return Tasks(material, shares, seed=self.recipe.seed + seed, manner=manner)

    def batcher(self, asked: float = 0.0, plain: float = 1.0, device: torch.device | str = "cpu") -> Batcher:
        groups, length = self.config.labels, self.recipe.row_length
        return Batcher(self.tokenizer, groups, row_length=length, asked=asked, plain=plain, device=device)


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
    family = dataclasses.replace(prepare(recipe, data, out), device=device or _CPU)
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
        fit_gate(model.eval(), _fitting(family))
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
    for value in teacher.state_dict().values():
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
    stems = _stems(recipe, {})
    for stem, other in zip(stems, _stems(family.recipe, {}), strict=False):
        if (stem.modality, stem.side) != (other.modality, other.side):
            raise ConfigError(
                f"The encoder '{stem.modality}' of {edge.name} has tokens of {stem.side} elements; that of "
                f"{family.recipe.name}, from which it learns, has the sense '{other.modality}' with {other.side}.",
                param="encoders",
            )
    if len(stems) != len(family.recipe.encoders):
        raise ConfigError(f"{edge.name} must have the senses of {family.recipe.name}.", param="encoders")
    return recipe, _config(recipe, family.tokenizer, family.train)


def prepare(recipe: FamilyRecipe, data: Path, out: Path) -> Family:
    """Read and split the data, learn the vocabulary from the training part, and decide on the model's config."""
    given = recipe.data
    labels = read_labels(data / given.labels)
    questions = read_questions(data / given.questions, labels)
    split = split_questions(questions, given.validation, recipe.seed)
    train_text, validation_text = split_text(read_text(data / given.text), given.validation)
    stems = _stems(recipe, {})
    senses = _senses_of(recipe, stems, out)
    photos = digits = None
    if given.photos is not None:
        photos = split_photos(read_photos(data / given.photos, out / "cache", given.photo_side))
    if given.digits is not None and senses.audio is not None:
        digits = split_digits(read_digits(data / given.digits, senses.audio))

    def material(part: int) -> Material:
        return Material(
            senses,
            photos=None if photos is None else photos[part],
            utterances=() if digits is None else (digits.train, digits.validation)[part],
            questions=(split.train, split.validation)[part],
            text=(train_text, validation_text)[part],
            customers=given.customers,
        )

    train, validation = material(0), material(1)
    tokenizer = _tokenizer(recipe, out, train, train_text, split.train)
    config = _config(recipe, tokenizer, train)
    # Defaults are left out, so that what a later version adds and a recipe does not use ends no run.
    # Nor does what is done with a trained model.
    bare = msgspec.structs.replace(recipe, card=None, edge=None, gate_target=GATE_TARGET)
    read = _digest_of(data, given)
    digest = hashlib.sha256(msgspec.json.encode(bare) + read.encode())
    return Family(recipe, out, tokenizer, senses, train, validation, photos, digits, config, digest.hexdigest(), read)


def _digest_of(data: Path, given: FamilyData) -> str:
    """Of what is in the files: of zips by the checksums that they hold."""
    digest = hashlib.sha256()
    for name in (given.questions, given.labels, given.text):
        digest.update((data / name).read_bytes())
    for zipped in filter(None, (given.photos, given.digits)):
        with zipfile.ZipFile(data / zipped) as archive:
            digest.update("".join(f"{one.filename} {one.CRC}\n" for one in archive.infolist()).encode())
    return digest.hexdigest()


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
    report = _calibrate(family, written)
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
    """Of all that an encoder depends on: not of the decoder's recipe."""
    recipe = family.recipe
    parts = (recipe.seed, recipe.encoders[sense], recipe.pretrain[sense], recipe.data, recipe.shape.hidden_size)
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


def _calibrate(family: Family, model: UnifiedDecoder) -> GateReport:
    """Thresholds by half of the validation text; what they are worth by the other half."""
    gate = family.config.gate
    assert gate is not None
    first, second = family.validation.halves()
    # Prose that is like nothing in the training costs the most: where it is within the target, other texts are.
    kinds = [_text_batches(family, first, task) for task in ("text", "intent")] + [_prose(family)]
    found = [level_losses(model.eval(), batches) for batches in kinds]
    thresholds = calibrate(
        torch.cat([losses_NL for losses_NL, _ in found]),
        torch.cat([scores_NL for _, scores_NL in found]),
        gate.widths,
        before=gate.layer,
        layers=family.config.num_layers,
        target=family.recipe.gate_target,
        counts=[len(losses_NL) for losses_NL, _ in found],
    )
    assert model.gate is not None
    model.gate.thresholds = tuple(thresholds)
    others = [batch for task in ("text", "intent") for batch in _text_batches(family, second, task)]
    return judge_gate(model, others, thresholds)


def _text_batches(family: Family, material: Material, task: str) -> list[SenseBatch]:
    tasks = Tasks(material, {task: 1.0}, seed=family.recipe.seed + 2, manner=Manner(training=False))
    return [family.batcher().batch(tasks.examples(step, 24)) for step in range(8)]


def _fitting(family: Family) -> Iterator[SenseBatch]:
    """What the gate is fitted to: training text, and questions as customers ask them."""
    tasks = family.tasks({"text": 1.0, "intent": 2.0}, Manner(training=True), seed=6)
    batcher = family.batcher(device=family.device)
    return (batcher.batch(tasks.examples(step, _FITTED_EXAMPLES)) for step in range(_FITTED_STEPS))


def _prose(family: Family) -> list[SenseBatch]:
    text = SAMPLE.read_text(encoding="utf-8")
    pieces = [Example("text", (), text[at : at + TEXT_PIECE], {}) for at in range(0, len(text), TEXT_PIECE)]
    return [family.batcher().batch(pieces[at : at + 24]) for at in range(0, min(96, len(pieces)), 24)]


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


def _stems(recipe: FamilyRecipe, placeholders: Mapping[str, int]) -> tuple[StemConfig, ...]:
    return tuple(
        StemConfig.parse(sense, {**values, "placeholder": placeholders.get(sense, 1)})
        for sense, values in recipe.encoders.items()
    )


def _senses_of(recipe: FamilyRecipe, stems: tuple[StemConfig, ...], out: Path) -> Senses:
    """As serving will read them from the checkpoint: so a folder with the same files is written and read."""
    folder = out / "senses"
    folder.mkdir(parents=True, exist_ok=True)
    encoders = {stem.modality: stem.to_json() for stem in stems}
    (folder / "config.json").write_text(json.dumps({"model_type": "ostro", "encoders": encoders}), encoding="utf-8")
    (folder / "tekken.json").write_text(json.dumps(_sections(recipe, stems)), encoding="utf-8")
    return read_senses(folder)


def _sections(recipe: FamilyRecipe, stems: tuple[StemConfig, ...]) -> dict[str, Any]:
    """What tekken.json says of images and sounds."""
    sections: dict[str, Any] = {}
    for stem in stems:
        if stem.modality == "image":
            sections["image"] = {"image_patch_size": stem.side, "max_image_size": recipe.data.image_size}
        if stem.modality == "audio":
            if recipe.data.audio is None:
                raise ConfigError("A recipe with an audio encoder needs data.audio.", param="audio")
            sections["audio"] = recipe.data.audio
    return sections


def _tokenizer(
    recipe: FamilyRecipe, out: Path, train: Material, text: str, questions: tuple[Question, ...]
) -> Tokenizer:
    """Learnt once: a run that goes on has its own already."""
    if not (out / "tekken.json").is_file():
        shares = {task: 1.0 for task in recipe.align.tasks if task not in ("text", "intent")}
        tasks = Tasks(train, shares, seed=recipe.seed, manner=Manner(training=True)) if shares else None
        said = [] if tasks is None else texts_of(tasks.examples(0, _VOCABULARY_EXAMPLES))
        corpus = [*(q.text for q in questions), *(q.label for q in questions), *text.splitlines(keepends=True), *said]
        content = train_tekken(corpus, vocab_size=recipe.tokenizer.vocab_size, num_special=recipe.tokenizer.num_special)
        write_tekken(content | _sections(recipe, _stems(recipe, {})), out)
    loaded = load_tokenizer(out)
    assert loaded is not None
    return loaded


def _config(recipe: FamilyRecipe, tokenizer: Tokenizer, train: Material) -> OstroConfig:
    shape = recipe.shape
    missing = [PLACEHOLDERS[sense] for sense in recipe.encoders if sense not in tokenizer.placeholders]
    if missing:
        raise ConfigError(
            f"The vocabulary has no {', '.join(missing)}; raise tokenizer.num_special.", param="tokenizer"
        )
    base = dataclasses.replace(
        shape.config(recipe.tokenizer.vocab_size),
        architecture="ostro",
        encoders=_stems(recipe, tokenizer.placeholders),
        unrotated=2 if shape.routing else 0,
    )
    fields = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    thresholds = (0.0,) * (len(shape.widths) - 1)
    return OstroConfig(
        **fields,
        adapter=AdapterConfig(shape.adapter_layer, shape.adapter) if shape.adapter else None,
        gate=GateConfig(shape.gate_layer, shape.widths, thresholds) if shape.widths else None,
        routing=shape.routing,
        labels=tuple(LabelGroup(name, labels) for name, labels in train.labels.items()),
        embedding=shape.embedding,
    )
