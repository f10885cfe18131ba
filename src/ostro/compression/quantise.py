"""A checkpoint to a quantised one, block by block: only one block of the dense model is ever in memory.

The unified architecture, whose blocks are more than two branches, is taken whole, with what all its layers see: see
`_WholeRun`. For the others:

What calibration text gives to a block is what the blocks before it give after they were quantised. The same text runs
beside through the dense blocks, and through the quantised ones by the kernels that serve them: that is where the
perplexities before and after come from. What was written is loaded again and must give the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ostro.compression.error import relative_error
from ostro.compression.gptq import gptq
from ostro.compression.grouping import correlated_order, quantise_ordered
from ostro.compression.recipe import DENSE, Recipe, Treatment, needs_inputs, treatments
from ostro.compression.report import MatrixReport, Perplexity, Report, to_html
from ostro.compression.rounding import round_to_nearest
from ostro.compression.schemes import name_of
from ostro.compression.stages import Stage, scale_inputs, stages
from ostro.compression.statistics import InputStatistics
from ostro.compression.streams import Stream, loss, to_perplexity
from ostro.compression.target import check_target, replacing
from ostro.core.errors import CheckpointError, ConfigError
from ostro.kernels.packed_linear.layout import Codes, Packed, pack
from ostro.models.layers.decoder import Block, Decoder, Embedding
from ostro.models.layers.linear import Linear
from ostro.models.names import Binding
from ostro.weights.loader import ENCODERS, Filling, load_model, materialise, open_model
from ostro.weights.quantised.ostro import PackedWeight, packed_tensors
from ostro.weights.shards import ShardWriter
from ostro.weights.writer import finish_quantised, hf_config, hf_table

Progress = Callable[[int, int, str], None]

# How far the loss of what was written, in nats a token, may be from that of what was quantised: batches of other
# lengths sum in another order.
SAME = 1e-3
# Tokens that run through a model whose perplexity nobody asked for, so that it has run at all.
UNASKED = 32


@dataclass(frozen=True)
class Texts:
    """Rows of tokens [N, L]: what calibrates, None where nothing does, and what the perplexity is of.

    exercise: runs a model that is in memory whole through what else it is to be calibrated with, such as images.
    """

    calibration_NL: torch.Tensor | None = None
    evaluation_NL: torch.Tensor | None = None
    exercise: Callable[[Decoder], None] | None = None


def quantise_folder(
    source: Path, out: Path, recipe: Recipe, texts: Texts, *, force: bool = False, progress: Progress | None = None
) -> Report:
    """Quantise the checkpoint in `source` into the folder `out`, which must be empty or not there, or with `force` one
    that was written so before.

    Writes shards, config, tokenizer, quantization.json and quantization.html; nothing is left behind on failure.
    Raises ConfigError, CheckpointError, ModelNotFoundError.
    """
    target = check_target(source, out, force=force)
    with replacing(target) as unfinished, open_model(source) as filling, torch.inference_mode():
        kind = _Run if all(type(block) is Block for block in filling.model.layers) else _WholeRun
        return kind(filling, unfinished, recipe, texts, progress).run()


class _Run:
    def __init__(self, filling: Filling, out: Path, recipe: Recipe, texts: Texts, progress: Progress | None) -> None:
        self._filling, self._out, self._recipe, self._progress = filling, out, recipe, progress
        if filling.folder.layout == "gguf" or filling.stored_quantised:
            raise ConfigError(
                f"{filling.folder.path} is quantised already, or a GGUF file. Rounding twice loses twice: take the "
                "dense safetensors checkpoint that it was made from."
            )
        if filling.folder.layout == "native":
            hf_config(filling.model.config, torch.bfloat16)  # What cannot be written is told before anything runs.
        self._model: Decoder = filling.model.to(torch.float32)
        self._names = _stored_names(filling)
        self._treatments = treatments(recipe, {self._names[_key(b)]: shape for b, shape in filling.matrices()})
        if needs_inputs(recipe) and texts.calibration_NL is None:
            raise ConfigError("This method is calibrated with text; give some, or take the method rtn.")
        self._texts = texts
        self._matrices: list[MatrixReport] = []
        self._packed: dict[str, PackedWeight] = {}
        self._writer = ShardWriter(out)
        self._stored_dtype = filling.dtype()
        self._beside = 0  # bytes of what is no part of the decoder

    def run(self) -> Report:
        started = time.monotonic()
        filling, model = self._filling, self._model
        evaluation_NL, asked = self._texts.evaluation_NL, self._texts.evaluation_NL is not None
        if evaluation_NL is None:
            evaluation_NL = torch.arange(UNASKED)[None] * 7 % model.config.vocab_size
        calibrated = needs_inputs(self._recipe)
        dense, quantised = self._quantise(evaluation_NL)
        self._write_extras()
        self._writer.finish()
        finish_quantised(filling.folder, model.config, self._packed, self._out)
        self._run_again(evaluation_NL, quantised)
        weights = sum(math.prod(matrix.shape) for matrix in self._matrices)
        report = Report(
            model=filling.folder.path.name,
            recipe=self._recipe,
            error_of="outputs" if calibrated else "weights",
            weights=weights,
            stored_bytes=self._writer.size,
            bits_per_weight=8 * (self._writer.size - self._beside) / weights,
            perplexity=Perplexity(
                before=to_perplexity(dense),
                after=to_perplexity(quantised),
                tokens=evaluation_NL.numel() - len(evaluation_NL),
            )
            if asked
            else None,
            calibration_tokens=self._texts.calibration_NL.numel() if calibrated else 0,  # type: ignore[union-attr]  # there, where it is calibrated
            seconds=time.monotonic() - started,
            matrices=self._matrices,
        )
        (self._out / "quantization.json").write_bytes(report.to_json())
        (self._out / "quantization.html").write_text(to_html(report), encoding="utf-8")
        return report

    def _quantise(self, evaluation_NL: torch.Tensor) -> tuple[float, float]:
        """All matrices, written as they are done. Returns the losses before and after, in nats a token."""
        model, texts = self._model, self._texts
        materialise(model.embed)
        self._filling.fill_under("embed")
        self._filling.finish()
        before = Stream(evaluation_NL, self._embed, model.rotary)
        self._round_embedding()
        after = Stream(evaluation_NL, self._embed, model.rotary)
        calibrated = needs_inputs(self._recipe)
        shown = Stream(texts.calibration_NL, self._embed, model.rotary) if calibrated else None  # type: ignore[arg-type]  # there, where it is calibrated
        for index in range(len(model.layers)):
            self._block(index, before, after, shown)
        return self._head(before, after, shown)

    def _embed(self, ids_L: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self._model.embed(ids_L, torch.float32)
        return embedded

    def _round_embedding(self) -> None:
        """Rows that are looked up: there are no inputs to calibrate with."""
        embed = self._model.embed
        tensors, kept = self._round(embed, "embed", None, scaled=False)
        embed.quantise(kept)
        self._writer.write(tensors)

    def _block(self, index: int, before: Stream, after: Stream, shown: Stream | None) -> None:
        target = f"layers.{index}"
        block = self._model.layers[index]
        assert isinstance(block, Block)
        materialise(block)
        self._filling.fill_under(target)
        before.advance(block)
        parts = stages(block, target)
        seen = self._observe(block, parts, shown) if shown is not None else {}
        # All are scaled before any is rounded: what makes one layer's inputs is a part of another.
        scaled = {stage.target: self._scale(stage, seen) for stage in parts}
        tensors: dict[str, torch.Tensor] = {}
        for stage in reversed(parts):
            found, kept = self._round(
                stage.layer, stage.target, seen.pop(stage.target, None), scaled=scaled[stage.target]
            )
            stage.layer.quantise(kept)
            tensors |= found
        tensors |= self._vectors(target)
        self._writer.write(tensors)
        after.advance(block)
        if shown is not None:
            shown.advance(block)
        self._model.layers[index] = nn.Identity()
        self._tell(index + 1, target)

    def _observe(self, block: Block, parts: list[Stage], shown: Stream) -> dict[str, InputStatistics]:
        seen = {}
        for stage in parts:
            seen[stage.target] = InputStatistics(stage.target, shown.tokens, hessian=self._wants_hessian(stage.target))
            stage.layer.observer = seen[stage.target].observe
        shown.show(block)
        for stage in parts:
            stage.layer.observer = None
            seen[stage.target].check()
        return seen

    def _scale(self, stage: Stage, seen: dict[str, InputStatistics]) -> bool:
        if self._recipe.scaling == "none":
            return False
        schemes = [self._treatment(stage.target, part).scheme for part in stage.layer.slices]
        return scale_inputs(stage, schemes, seen[stage.target], self._recipe.scaling)

    def _head(self, before: Stream, after: Stream, shown: Stream | None) -> tuple[float, float]:
        """The final norm and the head. Returns the losses before and after, in nats a token."""
        model = self._model
        materialise(model.norm)
        self._filling.fill_under("norm")
        tensors: dict[str, torch.Tensor] = {}
        if model.head is None:
            # The head is the embedding, which was rounded and written before; dense, it is read once more.
            rounded, model.embed = model.embed, Embedding(model.config.vocab_size, model.config.hidden_size)
            self._filling.fill_under("embed")
            dense = before.loss(model)
            model.embed = rounded
        else:
            materialise(model.head)
            self._filling.fill_under("head")
            dense = before.loss(model)
            stage = Stage("head", model.head, model.norm.weight.data)
            seen = {}
            if shown is not None:
                seen["head"] = InputStatistics("head", shown.tokens, hessian=self._wants_hessian("head"))
                for normed_TD in shown.normed(model.norm):
                    seen["head"].observe(normed_TD)
                seen["head"].check()
            scaled = self._scale(stage, seen)
            tensors, kept = self._round(model.head, "head", seen.get("head"), scaled=scaled)
            model.head.quantise(kept)
        self._writer.write(tensors | self._vectors("norm"))
        return dense, after.loss(model)

    def _round(
        self, layer: Linear | Embedding, target: str, seen: InputStatistics | None, *, scaled: bool
    ) -> tuple[dict[str, torch.Tensor], dict[str, Packed | torch.Tensor]]:
        """(what is stored by name, what the layer keeps by slice)."""
        tensors: dict[str, torch.Tensor] = {}
        kept: dict[str, Packed | torch.Tensor] = {}
        for part in layer.slices if isinstance(layer, Linear) else ("",):
            name = self._names[target, part]
            weight_OI = layer.part(part or None)
            treatment = self._treatment(target, part)
            shape = (weight_OI.shape[0], weight_OI.shape[1])
            if treatment.scheme is None:
                stored = weight_OI.to(self._stored_dtype).clone()
                tensors[name], kept[part] = stored, stored.float()
                bits = 8.0 * stored.element_size()
                self._matrices.append(
                    MatrixReport(name=name, shape=shape, scheme=DENSE, rounding="", bits_per_weight=bits, error=0)
                )
                continue
            codes = quantise_matrix(weight_OI, treatment, self._recipe, seen, name)
            packed = pack(codes)
            kept[part] = packed
            tensors |= packed_tensors(name, packed)
            self._packed[name] = PackedWeight(packed.scheme, shape)
            self._matrices.append(
                MatrixReport(
                    name=name,
                    shape=shape,
                    scheme=name_of(treatment.scheme),
                    rounding=treatment.rounding if seen is not None else "nearest",
                    bits_per_weight=8 * packed.bytes / weight_OI.numel(),
                    error=relative_error(weight_OI, codes, None if seen is None else seen.hessian),
                    scaled=scaled,
                    reordered=codes.order_I is not None,
                )
            )
        return tensors, kept

    def _vectors(self, target: str) -> dict[str, torch.Tensor]:
        """The norms under a module, in float32: what was folded into them is not rounded again."""
        found = {}
        for (path, part), name in self._names.items():
            inside = not target or path == target or path.startswith(f"{target}.")
            module = self._model.get_submodule(path) if inside and not path.startswith(ENCODERS) else None
            if module is not None and not isinstance(module, Linear | Embedding):
                assert part == ""
                found[name] = module.part(None).clone()  # type: ignore[operator]  # a norm
        return found

    def _write_extras(self) -> None:
        """Parts of the checkpoint that are no text model: they come along as they are."""
        group: dict[str, torch.Tensor] = {}
        layer = ""
        for binding, weight in self._filling.senses():
            # A shard a layer: one for every tensor would be hundreds of files.
            if binding.target.split(".")[:4] != layer.split(".")[:4]:
                self._writer.write(group)
                group, layer = {}, binding.target
            group[self._names[_key(binding)]] = weight
            self._beside += weight.nbytes
        self._writer.write(group)
        for name in self._filling.extras():
            info = self._filling.checkpoint.info(name)
            assert info is not None
            assert info.shape is not None
            value = self._filling.checkpoint.read(name, info.shape, torch.bfloat16)
            assert isinstance(value, torch.Tensor)
            self._beside += value.nbytes
            self._writer.write({name: value})

    def _run_again(self, evaluation_NL: torch.Tensor, expected: float) -> None:
        if not math.isfinite(expected):
            raise CheckpointError(
                f"The quantised model's output is not finite (a loss of {expected} nats a token). The activations of "
                f"{self._filling.folder.path} are beyond float32, or its weights are damaged; see whether it runs as "
                "it is."
            )
        found = loss(load_model(self._out), evaluation_NL)
        if not abs(found - expected) < SAME:
            raise CheckpointError(
                f"What was written to {self._out} has a loss of {found:.4f} nats a token; it had {expected:.4f} while "
                "it was quantised. The disk or the memory of this machine may be broken; run it once more, and report "
                "it."
            )

    def _wants_hessian(self, target: str) -> bool:
        """GPTQ and grouping need it; errors are told by it."""
        return any(self._treatment(path, part).scheme is not None for path, part in self._names if path == target)

    def _treatment(self, target: str, part: str) -> Treatment:
        return self._treatments[self._names[target, part]]

    def _tell(self, done: int, what: str) -> None:
        if self._progress is not None:
            self._progress(done, len(self._model.layers), what)


class _WholeRun(_Run):
    """The unified architecture, in memory whole: all matrices see what the dense model makes of the inputs. Those that
    text never reaches, such as the adapters of other senses, are rounded to nearest unless `exercise` reaches them."""

    def _quantise(self, evaluation_NL: torch.Tensor) -> tuple[float, float]:
        model = self._model
        if self._recipe.scaling != "none":
            raise ConfigError(
                f"{self._filling.folder.path} is of the architecture '{model.config.architecture}'. Its branches read "
                "inputs that no matrix makes alone, so no scales are folded there. Take the method rtn, weighted or "
                "gptq.",
                param="scaling",
            )
        materialise(model)
        self._filling.fill(None)
        model.eval()
        dense = loss(model, evaluation_NL)
        layers = self._layers()
        seen = self._watch(layers) if needs_inputs(self._recipe) else {}
        tensors: dict[str, torch.Tensor] = {}
        for index, (target, layer) in enumerate(layers.items()):
            found, kept = self._round(layer, target, seen.pop(target, None), scaled=False)
            layer.quantise(kept)
            tensors |= found
            self._tell(len(model.layers) * (index + 1) // len(layers), target)
        self._decoder = tensors | self._vectors("")
        return dense, loss(model, evaluation_NL)

    def _write_extras(self) -> None:
        """All in one shard."""
        senses = {self._names[_key(binding)]: weight for binding, weight in self._filling.senses()}
        self._beside = sum(weight.nbytes for weight in senses.values())
        self._writer.write(self._decoder | senses)

    def _layers(self) -> dict[str, Linear | Embedding]:
        found: dict[str, Linear | Embedding] = {}
        for binding, _ in self._filling.matrices():
            layer = self._model.get_submodule(binding.target)
            assert isinstance(layer, Linear | Embedding)
            found[binding.target] = layer
        return found

    def _watch(self, layers: dict[str, Linear | Embedding]) -> dict[str, InputStatistics]:
        """What each layer that anything reached has seen."""
        calibration_NL = self._texts.calibration_NL
        assert calibration_NL is not None
        seen = {
            target: InputStatistics(target, 0, hessian=self._wants_hessian(target))
            for target, layer in layers.items()
            if isinstance(layer, Linear)
        }
        for target, statistics in seen.items():
            layers[target].observer = statistics.observe
        loss(self._model, calibration_NL)
        if self._texts.exercise is not None:
            self._texts.exercise(self._model)
        for target in seen:
            layers[target].observer = None
        reached = {target: statistics for target, statistics in seen.items() if statistics.any}
        for statistics in reached.values():
            statistics.check()
        return reached


def matrix_shapes(model: Decoder) -> Iterator[tuple[str, tuple[int, int]]]:
    """The names and shapes [O, I] of what is quantised of a model, which may be on the meta device."""
    for binding in hf_table(model.config).bindings:
        if binding.target.startswith(ENCODERS) or (binding.target == "head" and model.head is None):
            continue
        shape = tuple(model.get_submodule(binding.target).part(binding.part).shape)  # type: ignore[operator]  # has part()
        if len(shape) == 2:
            yield binding.source, (shape[0], shape[1])


def quantise_matrix(
    weight_OI: torch.Tensor, treatment: Treatment, recipe: Recipe, seen: InputStatistics | None, name: str
) -> Codes:
    """One matrix by its treatment. seen: what is known of its inputs, if anything."""
    scheme = treatment.scheme
    assert scheme is not None
    hessian_II = None if seen is None else seen.hessian
    order_I = None
    if treatment.grouping == "correlated" and scheme.group_size:
        order_I = correlated_order(weight_OI, scheme.group_size, hessian_II, name=name)
        if torch.equal(order_I, torch.arange(len(order_I), dtype=order_I.dtype)):
            order_I = None
    if treatment.rounding == "gptq" and hessian_II is not None:
        return gptq(
            weight_OI,
            hessian_II,
            scheme,
            name=name,
            damping=recipe.damping,
            act_order=recipe.act_order and order_I is None,
            order_I=order_I,
            search=recipe.search,
        )
    importance_I = None if seen is None or treatment.rounding == "nearest" else seen.squares
    if order_I is not None:
        return quantise_ordered(weight_OI, order_I, scheme, name=name, search=recipe.search, importance_I=importance_I)
    return round_to_nearest(weight_OI, scheme, name=name, search=recipe.search, importance_I=importance_I)


def _key(binding: Binding) -> tuple[str, str]:
    return binding.target, binding.part or ""


def _stored_names(filling: Filling) -> dict[tuple[str, str], str]:
    """(target, slice) -> the name that a weight is stored under: Hugging Face's, also for native folders."""
    native = filling.folder.layout == "native"
    bindings = hf_table(filling.folder.config).bindings if native else filling.table.bindings
    wanted = [binding for binding in bindings if binding.target != "head" or filling.model.head is not None]
    return {_key(binding): binding.source for binding in wanted}
