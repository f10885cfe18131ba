"""What `ostro train` reads of a family: its models, data and stages, as a frozen, typed, strict YAML file."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ostro.compression.recipe import Recipe as Rounding
from ostro.training.pretrain import PretrainRecipe
from ostro.training.recipe import Customers, ModelRecipe, OptimiserRecipe, TokenizerRecipe
from ostro.training.unified import UnifiedObjective

# The share of the full feed-forward compute that text may cost.
GATE_TARGET = 0.38


class ShapeRecipe(ModelRecipe, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The decoder. widths: of the gate's levels, the last being intermediate_size; empty has no gate. adapter: channels
    of the modal adapters; 0 has none."""

    widths: tuple[int, ...] = ()
    gate_layer: int = 1
    adapter: int = 0
    adapter_layer: int = 1
    routing: bool = False
    embedding: int = 0


class FamilyData(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Files in the data folder; a sense whose file is not named is not trained. image_size: longest side of an image in
    pixels. audio: the `audio` section of tekken.json."""

    questions: str
    labels: str
    text: str
    photos: str | None = None
    digits: str | None = None
    validation: float = 0.1
    photo_side: int = 32
    image_size: int = 64
    audio: dict[str, Any] | None = None
    customers: Customers = Customers()


class StageRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """tasks: how often each is drawn. encoder_rate: a factor on the encoders' rate, in the joint stage."""

    optimiser: OptimiserRecipe
    objective: UnifiedObjective
    tasks: dict[str, float]
    encoder_rate: float = 0.1


class MemberRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What each model of a family has of its own. encoders: as in config.json of a checkpoint, without placeholders.
    pretrain: by sense. gate_target: the share of the full feed-forward compute that text may cost. card: a template of
    the model card, beside the recipe, that the figures are filled into."""

    name: str
    encoders: dict[str, dict[str, Any]]
    shape: ShapeRecipe
    pretrain: dict[str, PretrainRecipe]
    align: StageRecipe
    joint: StageRecipe
    gate_target: float = GATE_TARGET
    card: str | None = None


class EdgeRecipe(MemberRecipe, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A smaller model, that shares the vocabulary and the senses of the one it learns from. quantization: how it is
    rounded."""

    quantization: Rounding


class FamilyRecipe(MemberRecipe, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """edge: a smaller model that learns from this one."""

    kind: Literal["family"]
    seed: int
    tokenizer: TokenizerRecipe
    data: FamilyData
    row_length: int = 256
    edge: EdgeRecipe | None = None
