"""Builds a model on the meta device and fills it tensor by tensor, strictly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from ostro.core.errors import CheckpointError
from ostro.models.layers.decoder import Decoder
from ostro.models.names import Binding, NamesTable
from ostro.weights.folder import CheckpointFolder, open_folder
from ostro.weights.safetensors_file import SafetensorsFile, TensorEntry

Progress = Callable[[int, int, str], None]

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
# Per-tensor scales that a stored weight is multiplied by, under the names that the layouts give them; and scales
# of activations, which weights that are dequantised have no use for.
WEIGHT_SCALES = (".weight_scale_inv", ".weight_scale", ".qscale_weight")
ACTIVATION_SCALES = (".activation_scale", ".input_scale", ".qscale_act", ".k_scale", ".v_scale", ".kv_scale")


@dataclass(frozen=True)
class _Source:
    file: SafetensorsFile
    entry: TensorEntry


def load_model(
    path: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> Decoder:
    """Load a checkpoint folder. dtype None keeps the checkpoint's own (FP8 becomes bfloat16).

    Peak memory is the model's size plus one tensor. Raises ConfigError, CheckpointError, ModelNotFoundError; a
    missing, unexpected or misshapen tensor is named.
    """
    folder = open_folder(path)
    with ExitStack() as stack:
        sources = _open_all(folder, stack)
        table = _choose_names(folder, sources)
        config = folder.config
        if config.tie_word_embeddings is None:
            config = dataclasses.replace(config, tie_word_embeddings=table.head not in sources)
        with torch.device("meta"):
            model = folder.architecture.model(config)
        # The type first: on the meta device that costs nothing, afterwards it would be a second copy of the model.
        model.to(dtype or _checkpoint_dtype(folder, table, sources))
        model.to_empty(device=device)
        model.requires_grad_(False)
        _fill(model, table, sources, folder, progress)
    return model.eval()


def _open_all(folder: CheckpointFolder, stack: ExitStack) -> dict[str, _Source]:
    sources: dict[str, _Source] = {}
    for path in folder.files:
        file = stack.enter_context(SafetensorsFile(path))
        for name, entry in file.tensors.items():
            if name in sources:
                raise CheckpointError(f"'{name}' is in both {sources[name].file.path.name} and {path.name}.")
            sources[name] = _Source(file, entry)
    return sources


def _choose_names(folder: CheckpointFolder, sources: dict[str, _Source]) -> NamesTable:
    """The layout whose names are there; the usual one where none is whole, for its error to name what lacks."""
    tables = [names(folder.config) for names in folder.architecture.names]
    return max(tables, key=lambda table: sum(binding.source in sources for binding in table.bindings))


def _checkpoint_dtype(folder: CheckpointFolder, table: NamesTable, sources: dict[str, _Source]) -> torch.dtype:
    """The type most of the weights' elements have; FP8 becomes bfloat16."""
    counts: dict[torch.dtype, int] = {}
    for binding in table.bindings:
        if binding.source in sources:
            entry = sources[binding.source].entry
            dtype = torch.bfloat16 if entry.dtype in FP8 else entry.dtype
            counts[dtype] = counts.get(dtype, 0) + entry.size
    floating = {dtype: count for dtype, count in counts.items() if dtype.is_floating_point}
    if not floating:
        raise CheckpointError(
            f"{folder.path} holds none of the model's weights as numbers that can be loaded (looked for "
            f"'{table.bindings[0].source}' and others); it is empty, of another architecture or in a quantised format."
        )
    return max(floating, key=lambda key: floating[key])


def _fill(
    model: Decoder,
    table: NamesTable,
    sources: dict[str, _Source],
    folder: CheckpointFolder,
    progress: Progress | None,
) -> None:
    left = {name for name in sources if not name.startswith(table.skipped_prefixes or ("\0",))}
    # In file order, so that a disk is read forwards.
    bindings = sorted(table.bindings, key=lambda binding: _position(binding, sources))
    wanted = {binding.source for binding in bindings if binding.target != "head" or model.head is not None}
    total = sum(sources[name].entry.size for name in wanted & sources.keys())
    done = 0
    for binding in bindings:
        if binding.target == "head" and model.head is None:
            left.discard(binding.source)  # Checked below, once the embedding is there.
            continue
        if binding.source not in sources:
            raise CheckpointError(
                f"{folder.path} lacks the tensor '{binding.source}' (for {binding.target}); the checkpoint is "
                "incomplete or of another architecture."
            )
        source = sources[binding.source]
        left.discard(binding.source)
        left -= _assign(model, binding, source, sources)
        done += source.entry.size
        if progress is not None:
            progress(done, total, binding.source)
    if model.head is None and table.head in sources:
        _check_tied(model, sources[table.head], table.head)
    # What only transformers' older versions wrote, and is derived from the config.
    left = {name for name in left if not name.endswith("rotary_emb.inv_freq")}
    if left:
        shown = ", ".join(f"'{name}'" for name in sorted(left)[:3])
        raise CheckpointError(
            f"{folder.path} holds {len(left)} tensor(s) that the model has no place for: {shown}. The checkpoint is of "
            "another architecture, or its config leaves something out."
        )


def _position(binding: Binding, sources: dict[str, _Source]) -> tuple[str, int]:
    source = sources.get(binding.source)
    return ("", 0) if source is None else (source.file.path.name, source.entry.offset)


def _assign(model: Decoder, binding: Binding, source: _Source, sources: dict[str, _Source]) -> set[str]:
    """Fill one slice; returns the names of the scales that belong to it."""
    target = model.get_submodule(binding.target).part(binding.part)  # type: ignore[operator]  # has part()
    if tuple(target.shape) != source.entry.shape:
        raise CheckpointError(
            f"{source.file.path.name}: '{binding.source}' has the shape "
            f"{list(source.entry.shape)}; the config asks for {list(target.shape)}."
        )
    if not source.entry.dtype.is_floating_point:
        raise CheckpointError(
            f"{source.file.path.name}: '{binding.source}' holds {_plain(source.entry.dtype)}, a quantised format that "
            "is not supported; use the checkpoint in bfloat16, float16, float32 or FP8 with per-tensor scales."
        )
    stem = binding.source.removesuffix(".weight")
    # A scale beside a weight that is not FP8 has no meaning here: it stays unaccounted for, which is an error.
    suffixes = (*WEIGHT_SCALES, *ACTIVATION_SCALES) if source.entry.dtype in FP8 else ACTIVATION_SCALES
    extras = {stem + suffix for suffix in suffixes} & sources.keys()
    direct = target.is_cpu and target.dtype == source.entry.dtype and not binding.interleaved_heads
    if direct:
        source.file.read_into(source.entry, target)
        return extras
    value = source.file.read(source.entry)
    if source.entry.dtype in FP8:
        value = _dequantise(value, stem, source, sources, target.dtype)
    if binding.interleaved_heads:
        value = deinterleave(value, model.config.head_dim)
    target.copy_(value)
    return extras


def _dequantise(
    value: torch.Tensor, stem: str, source: _Source, sources: dict[str, _Source], dtype: torch.dtype
) -> torch.Tensor:
    """FP8 times its static per-tensor scale, in float32 row blocks so that no whole copy in float32 exists."""
    name = next((stem + suffix for suffix in WEIGHT_SCALES if stem + suffix in sources), None)
    if name is None:
        raise CheckpointError(
            f"{source.file.path.name}: '{stem}.weight' is FP8, but its scale is missing (looked for "
            f"{', '.join(stem + suffix for suffix in WEIGHT_SCALES)})."
        )
    scale = sources[name].file.read(sources[name].entry).float()
    if scale.numel() != 1:
        raise CheckpointError(
            f"{source.file.path.name}: '{name}' has the shape {list(scale.shape)}; only per-tensor scales (one number) "
            "are supported."
        )
    out = torch.empty(value.shape, dtype=dtype)
    for rows, block in _row_blocks(value):
        out[rows] = block.float() * scale.reshape(())
    return out


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _row_blocks(value: torch.Tensor, elements: int = 1 << 20) -> Iterator[tuple[slice, torch.Tensor]]:
    rows = max(1, elements // max(1, value[0].numel()))
    for start in range(0, value.shape[0], rows):
        yield slice(start, start + rows), value[start : start + rows]


def deinterleave(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows of each head from pairs (0, 1), (2, 3), … to halves: all firsts, then all seconds. [H*D, I] -> [H*D, I]."""
    pairs = weight.view(-1, head_dim // 2, 2, weight.shape[-1])
    return pairs.transpose(1, 2).reshape(weight.shape)


def _check_tied(model: Decoder, source: _Source, name: str) -> None:
    """A tied checkpoint may repeat the embedding as its head, but not bring another one."""
    head = source.file.read(source.entry).to(model.embed.weight.dtype)
    if not torch.equal(head, model.embed.weight.data.cpu()):
        raise CheckpointError(
            f"{source.file.path.name}: the config says that the head is tied to the embedding, but '{name}' "
            "differs from it. Set tie_word_embeddings to false in config.json if the head is its own."
        )
