"""What a family's run is made of: its data, read and split, its vocabulary, and the config of its model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from ostro.core.errors import ConfigError
from ostro.media.senses import Senses, read_senses
from ostro.models.ostro.config import AdapterConfig, GateConfig, LabelGroup, OstroConfig
from ostro.models.ostro.model import UnifiedDecoder
from ostro.models.ostro.stems import StemConfig
from ostro.tokenizer import load_tokenizer
from ostro.tokenizer.base import PLACEHOLDERS, Tokenizer
from ostro.training.data import Question, read_labels, read_questions, read_text, split_questions, split_text
from ostro.training.family_recipe import GATE_TARGET, FamilyData, FamilyRecipe
from ostro.training.senses.batches import Batcher
from ostro.training.senses.digits import DigitSplit, read_digits, split_digits
from ostro.training.senses.examples import texts_of
from ostro.training.senses.photos import Photos, read_photos, split_photos
from ostro.training.senses.tasks import Manner, Material, Tasks
from ostro.training.tokenizer import train_tekken, write_tekken

CPU = torch.device("cpu")
# Examples that the vocabulary is learnt from, beside all questions and the text.
_VOCABULARY_EXAMPLES = 4000


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
    device: torch.device = CPU

    def tasks(self, shares: Mapping[str, float], manner: Manner, seed: int = 0) -> Tasks:
        material = self.train if manner.training else self.validation
        return Tasks(material, shares, seed=self.recipe.seed + seed, manner=manner)

    def batcher(self, asked: float = 0.0, plain: float = 1.0, device: torch.device | str = "cpu") -> Batcher:
        groups, length = self.config.labels, self.recipe.row_length
        return Batcher(self.tokenizer, groups, row_length=length, asked=asked, plain=plain, device=device)


def prepare(recipe: FamilyRecipe, data: Path, out: Path) -> Family:
    """Read and split the data, learn the vocabulary from the training part, and decide on the model's config."""
    given = recipe.data
    labels = read_labels(data / given.labels)
    questions = read_questions(data / given.questions, labels)
    split = split_questions(questions, given.validation, recipe.seed)
    train_text, validation_text = split_text(read_text(data / given.text), given.validation)
    stems = stems_of(recipe, {})
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
    config = config_of(recipe, tokenizer, train)
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


def stems_of(recipe: FamilyRecipe, placeholders: Mapping[str, int]) -> tuple[StemConfig, ...]:
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
        write_tekken(content | _sections(recipe, stems_of(recipe, {})), out)
    loaded = load_tokenizer(out)
    assert loaded is not None
    return loaded


def config_of(recipe: FamilyRecipe, tokenizer: Tokenizer, train: Material) -> OstroConfig:
    shape = recipe.shape
    missing = [PLACEHOLDERS[sense] for sense in recipe.encoders if sense not in tokenizer.placeholders]
    if missing:
        raise ConfigError(
            f"The vocabulary has no {', '.join(missing)}; raise tokenizer.num_special.", param="tokenizer"
        )
    base = dataclasses.replace(
        shape.config(recipe.tokenizer.vocab_size),
        architecture="ostro",
        encoders=stems_of(recipe, tokenizer.placeholders),
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
