"""Builds a model on the meta device and fills it tensor by tensor, strictly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

from ostro.core.errors import CheckpointError, ConfigError
from ostro.kernels.packed_linear.layout import Codes, Packed, pack, unpack
from ostro.models.layers.decoder import Decoder, Embedding
from ostro.models.layers.linear import Linear
from ostro.models.names import Binding, NamesTable
from ostro.weights.checkpoint import Checkpoint, WeightInfo
from ostro.weights.folder import CheckpointFolder, open_folder
from ostro.weights.safetensors_weights import FP8

# What transformers' older versions wrote, and is derived from the config; scales of a quantised KV cache, which ours
# finds for each row.
UNUSED = ("rotary_emb.inv_freq", ".k_scale", ".v_scale")

# Where a model keeps what sees and hears. It stays as precise as it is stored: it is a small part of a model, and what
# it gets wrong no token can mend.
ENCODERS = "encoders."

Progress = Callable[[int, int, str], None]


class Quantiser(Protocol):
    """Turns dense weights into integers while they are loaded."""

    def takes(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether the weight will be quantised. Raises ConfigError where that is wished and cannot be."""

    def quantise(self, name: str, weight_OI: torch.Tensor) -> Codes: ...


def load_model(
    path: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    quantiser: Quantiser | None = None,
    progress: Progress | None = None,
) -> Decoder:
    """Load a checkpoint folder. dtype None keeps the checkpoint's own (FP8 becomes bfloat16; what is quantised to
    integers is computed in float32). quantiser: turns dense weights into integers as they come.

    Peak memory is the model's size plus one tensor. Raises ConfigError, CheckpointError, ModelNotFoundError; a
    missing, unexpected or misshapen tensor is named.
    """
    with open_model(path, quantiser) as filling:
        model = filling.model
        if filling.quantised and torch.device(device).type != "cpu":
            raise ConfigError(
                f"{filling.folder.path} has weights of 4 or 8 bits, which run on the CPU only; pass device='cpu', or "
                "take the checkpoint they were made from.",
                param="device",
            )
        # The type first: on the meta device that costs nothing, afterwards it would be a second copy of the model.
        model.to(dtype or filling.dtype())
        filling.check_whole()
        materialise(model, device)
        filling.fill(progress)
    return model.eval()


def materialise(module: torch.nn.Module, device: torch.device | str = "cpu") -> None:
    """Give parameters of the meta device memory, without values and without gradients.

    `Module.to_empty` does the same by way of PyTorch's symbolic shapes, whose import takes a third of a second.
    """
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            setattr(part, name, torch.nn.Parameter(empty, requires_grad=False))
        assert not list(part.buffers(recurse=False))


@contextmanager
def open_model(path: Path, quantiser: Quantiser | None = None) -> Iterator[Filling]:
    """A checkpoint and its model on the meta device, to be filled whole or module by module."""
    folder = open_folder(path)
    with folder.open_weights() as checkpoint:
        table = _choose_names(folder, checkpoint)
        config = folder.config
        if config.tie_word_embeddings is None:
            config = dataclasses.replace(config, tie_word_embeddings=checkpoint.info(table.head) is None)
        with torch.device("meta"):
            model = folder.architecture.model(config)
        yield Filling(folder, model, table, checkpoint, quantiser)


def _choose_names(folder: CheckpointFolder, checkpoint: Checkpoint) -> NamesTable:
    """The layout whose names are there; the usual one where none is whole, for its error to name what lacks."""
    tables = [names(folder.config) for names in folder.architecture.names]
    return max(tables, key=lambda table: sum(checkpoint.info(b.source) is not None for b in table.bindings))


class Filling:
    """Fills a model from a checkpoint by a table of names. Made while the model is on the meta device: layers that
    will hold quantised matrices let go of their dense ones then."""

    def __init__(
        self,
        folder: CheckpointFolder,
        model: Decoder,
        table: NamesTable,
        checkpoint: Checkpoint,
        quantiser: Quantiser | None,
    ) -> None:
        self.folder = folder
        self.model = model
        self.table = table
        self.checkpoint = checkpoint
        self._quantiser = quantiser
        self._wanted = [b for b in table.bindings if b.target != "head" or model.head is not None]
        self._info = {b.source: info for b in table.bindings if (info := checkpoint.info(b.source)) is not None}
        if quantiser is not None and self.stored_quantised:
            # Rounding what was rounded already would lose twice, in silence.
            raise ConfigError(
                f"The weights of {checkpoint.origin} are quantised already; leave quantize out, or take the checkpoint "
                "that they were made from.",
                param="quantize",
            )
        # Shapes are taken now: a layer that is emptied does not know its parts' any more. They are checked before
        # anything of that size is made.
        self._shapes = {b.source: self._shape(b) for b in self._wanted}
        self._check_shapes()
        self.quantised = {b.target for b in self._wanted if b.source in self._info and self._becomes_codes(b)}
        for target in self.quantised:
            layer = model.get_submodule(target)
            assert isinstance(layer, Linear | Embedding)
            layer.empty()
        self._parts: dict[str, dict[str, Packed | torch.Tensor]] = {target: {} for target in self.quantised}

    @property
    def stored_quantised(self) -> bool:
        """Whether weights are integers in the files already."""
        return any(info.quantised for info in self._info.values())

    def matrices(self) -> Iterator[tuple[Binding, tuple[int, int]]]:
        """The decoder's weights that are matrices, with their shapes [O, I]."""
        for binding in self._wanted:
            shape = self._shapes[binding.source]
            if len(shape) == 2 and not binding.target.startswith(ENCODERS):
                yield binding, (shape[0], shape[1])

    def dtype(self) -> torch.dtype:
        """The type most of the weights' elements have; FP8 becomes bfloat16; float32 where weights are integers."""
        counts: dict[torch.dtype, int] = {}
        for info in self._info.values():
            if info.dtype is not None and info.dtype.is_floating_point:
                dtype = torch.bfloat16 if info.dtype in FP8 else info.dtype
                counts[dtype] = counts.get(dtype, 0) + info.size
        if self.quantised:
            return torch.float32
        if not counts:
            raise CheckpointError(
                f"{self.checkpoint.origin} holds none of the model's weights as numbers that can be loaded (looked "
                f"for '{self.table.bindings[0].source}' and others); it is empty, of another architecture or in a "
                "quantised format that its config does not name."
            )
        return max(counts, key=lambda key: counts[key])

    def check_whole(self) -> None:
        """Raises CheckpointError for a tensor that is missing."""
        for binding in self._wanted:
            self._found(binding)

    def fill(self, progress: Progress | None) -> None:
        # In file order, so that a disk is read forwards.
        total = sum(self._info[b.source].size for b in self._wanted if b.source in self._info)
        done = 0
        for binding in sorted(self._wanted, key=self._place):
            done += self._fill_one(binding)
            if progress is not None:
                progress(done, total, binding.source)
        self.finish()

    def fill_under(self, target: str) -> None:
        """Fill one module, such as "layers.3", whose parameters are in memory. `finish` belongs after the last."""
        for binding in sorted(self._wanted, key=self._place):
            if binding.target == target or binding.target.startswith(f"{target}."):
                self._fill_one(binding)

    def finish(self) -> None:
        """Raises CheckpointError for tensors that are left over, or a tied head that is another matrix."""
        if self.model.head is None and self.table.head in self._info:
            self._check_tied()
        self._check_left()

    def extras(self) -> list[str]:
        """Tensors that belong to the checkpoint but not to the model."""
        return sorted(name for name in self._left() if name.startswith(self._skipped))

    def senses(self) -> Iterator[tuple[Binding, torch.Tensor]]:
        """The weights that see and hear, one at a time, as precise as they are stored."""
        for binding in self._wanted:
            if binding.target.startswith(ENCODERS):
                value = self.checkpoint.read(binding.source, self._shapes[binding.source], torch.bfloat16)
                assert isinstance(value, torch.Tensor)
                yield binding, self._ordered(binding, value).contiguous()

    def _fill_one(self, binding: Binding) -> int:
        info = self._found(binding)
        self._assign(binding, info)
        return info.size

    def _found(self, binding: Binding) -> WeightInfo:
        info = self._info.get(binding.source)
        if info is None:
            raise CheckpointError(
                f"{self.checkpoint.origin} lacks the tensor '{binding.source}' (for {binding.target}); the "
                "checkpoint is incomplete or of another architecture."
            )
        return info

    def _check_shapes(self) -> None:
        for source, shape in self._shapes.items():
            info = self._info.get(source)
            if info is not None and info.shape is not None and info.shape != shape:
                raise CheckpointError(
                    f"{info.place[0]}: '{source}' has the shape {list(info.shape)}; the config asks for {list(shape)}."
                )

    def _shape(self, binding: Binding) -> tuple[int, ...]:
        return tuple(self._module(binding).part(binding.part).shape)  # type: ignore[operator]  # has part()

    def _module(self, binding: Binding) -> torch.nn.Module:
        return self.model.get_submodule(binding.target)

    def _becomes_codes(self, binding: Binding) -> bool:
        info = self._info[binding.source]
        if info.quantised:
            return True
        shape = self._shapes[binding.source]
        if self._quantiser is None or len(shape) != 2 or binding.target.startswith(ENCODERS):
            return False
        return self._quantiser.takes(binding.source, shape)

    def _place(self, binding: Binding) -> tuple[str, int]:
        info = self._info.get(binding.source)
        return ("", 0) if info is None else info.place

    def _assign(self, binding: Binding, info: WeightInfo) -> None:
        shape = self._shapes[binding.source]
        if binding.target in self.quantised:
            return self._keep_part(binding, self._matrix(binding, shape))
        target = self._module(binding).part(binding.part)  # type: ignore[operator]  # has part()
        if target.is_cpu and target.dtype == info.dtype and not binding.interleaved_heads:
            return self.checkpoint.read_into(binding.source, target)
        value = self.checkpoint.read(binding.source, shape, target.dtype)
        assert isinstance(value, torch.Tensor)
        target.copy_(self._ordered(binding, value))

    def _matrix(self, binding: Binding, shape: tuple[int, ...]) -> Packed | torch.Tensor:
        head_dim = self._head_dim(binding) if binding.interleaved_heads else 0
        packed = self.checkpoint.read_packed(binding.source, head_dim)
        if packed is not None:
            return packed
        value = self.checkpoint.read(binding.source, shape, self.model.dtype)
        if isinstance(value, torch.Tensor):
            if not self._becomes_codes(binding):
                return self._ordered(binding, value.to(self.model.dtype))
            assert self._quantiser is not None
            value = self._quantiser.quantise(binding.source, value)
        if binding.interleaved_heads:
            codes = value if isinstance(value, Codes) else unpack(value)
            value = deinterleave_codes(codes, head_dim)
        return pack(value) if isinstance(value, Codes) else value

    def _ordered(self, binding: Binding, value: torch.Tensor) -> torch.Tensor:
        return deinterleave(value, self._head_dim(binding)) if binding.interleaved_heads else value

    def _head_dim(self, binding: Binding) -> int:
        return binding.head_dim or self.model.config.head_dim

    def _keep_part(self, binding: Binding, matrix: Packed | torch.Tensor) -> None:
        """Hold on to one part of a stacked layer until all are there."""
        module, parts = self._module(binding), self._parts[binding.target]
        parts[binding.part or ""] = matrix
        if parts.keys() == set(getattr(module, "slices", {"": None})):
            module.quantise(parts)  # type: ignore[operator]  # a layer or the embedding
            del self._parts[binding.target]

    def _check_tied(self) -> None:
        """A tied checkpoint may repeat the embedding as its head, but not bring another one."""
        embedding = self.model.embed.part(None)
        head = self.checkpoint.read(self.table.head, tuple(embedding.shape), embedding.dtype)
        if isinstance(head, torch.Tensor) and self._quantiser is not None and self.model.embed.weight is None:
            head = self._quantiser.quantise(self.table.head, head)
        if not isinstance(head, torch.Tensor):
            head = (head if isinstance(head, Codes) else unpack(head)).dequantise()
        if not torch.equal(head.to(embedding.dtype), embedding.cpu()):
            raise CheckpointError(
                f"{self._info[self.table.head].place[0]}: the config says that the head is tied to the embedding, but "
                f"'{self.table.head}' differs from it. Set tie_word_embeddings to false in config.json if the head is "
                "its own."
            )

    @property
    def _skipped(self) -> tuple[str, ...]:
        return self.table.skipped_prefixes or ("\0",)

    def _left(self) -> set[str]:
        return self.checkpoint.left({binding.source for binding in self._wanted} | {self.table.head})

    def _check_left(self) -> None:
        left = {name for name in self._left() if not name.startswith(self._skipped)}
        left = {name for name in left if not name.endswith(UNUSED)}
        if left:
            shown = ", ".join(f"'{name}'" for name in sorted(left)[:3])
            raise CheckpointError(
                f"{self.checkpoint.origin} holds {len(left)} tensor(s) that the model has no place for: {shown}. The "
                "checkpoint is of another architecture, or its config leaves something out."
            )


def deinterleave(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows of each head from pairs (0, 1), (2, 3), … to halves: all firsts, then all seconds. [H*D, I] -> [H*D, I]."""
    pairs = weight.view(-1, head_dim // 2, 2, weight.shape[-1])
    return pairs.transpose(1, 2).reshape(weight.shape)


def deinterleave_codes(codes: Codes, head_dim: int) -> Codes:
    """The same of a quantised matrix: its rows take their scales and shifts along."""
    shifts = codes.shifts_OG
    return dataclasses.replace(
        codes,
        codes_OI=deinterleave(codes.codes_OI, head_dim),
        scales_OG=deinterleave(codes.scales_OG, head_dim),
        shifts_OG=None if shifts is None else deinterleave(shifts, head_dim),
    )
