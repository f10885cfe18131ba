"""What models would take on this machine, told without loading them: `python -m ostro.engine.survey`.

In a process of its own, because a server that is to be told never imports PyTorch.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from ostro.compression.schemes import scheme_of
from ostro.core.errors import CheckpointError, OstroError
from ostro.core.footprint import Footprint, Survey
from ostro.core.gguf import read_header
from ostro.core.options import EngineOptions
from ostro.engine.engine import device_for, pick_dtype
from ostro.engine.kv_cache import pick_kv_dtype
from ostro.engine.sizing import free_memory, typical_memory
from ostro.kernels.packed_linear.layout import Scheme
from ostro.kernels.paged_attention.cache_rows import row_size
from ostro.link.messages import WireError
from ostro.models.config import DecoderConfig
from ostro.weights import gguf_blocks
from ostro.weights.folder import CheckpointFolder, open_folder
from ostro.weights.loader import ENCODERS
from ostro.weights.safetensors_file import SafetensorsFile

# An engine process before its model: PyTorch, the buffers of a batch; on a GPU the driver's context too.
_OVERHEAD = {"cpu": 384 * 2**20, "cuda": 768 * 2**20}
# The part of free memory that models may take where nobody says how much.
_SHARE = 0.8
# One model's cache takes at most this part of the budget, so that it does not keep the others out.
_KV_SHARE = 0.25


def survey(models: Sequence[EngineOptions], budget: int | None = None) -> Survey:
    """Footprints within a budget in bytes; None takes a share of what is free.

    A cache that `kv_memory` does not size gets what an engine alone would give it, but at most a quarter of the budget.
    Raises ModelNotFoundError, ConfigError and CheckpointError for folders without a readable config.
    """
    devices = [device_for(options) for options in models]
    device = next((one for one in devices if one.type != "cpu"), torch.device("cpu"))
    available = free_memory(device)
    budget = int(available * _SHARE) if budget is None else budget
    footprints = [_footprint(options, device, budget) for options in models]
    return Survey(device=device.type, available=available, budget=budget, footprints=footprints)


def _footprint(options: EngineOptions, device: torch.device, budget: int) -> Footprint:
    folder = open_folder(Path(options.model))
    dtype = pick_dtype(options, device)
    scheme = None if options.quantize is None else scheme_of(options.quantize)
    weights, quantised = _weight_bytes(folder, dtype, scheme)
    activations = dtype or (torch.float32 if quantised else getattr(torch, folder.config.dtype or "bfloat16"))
    kv_dtype = pick_kv_dtype(options, activations, quantised)
    kv = options.kv_memory or _kv_memory(options, folder.config, kv_dtype, budget)
    encoded = options.encoder_cache if folder.config.encoders else 0
    return Footprint(weights=weights, kv=kv, overhead=_OVERHEAD[device.type] + encoded)


def _kv_memory(options: EngineOptions, config: DecoderConfig, dtype: torch.dtype, budget: int) -> int:
    per_token = config.num_layers * 2 * config.num_kv_heads * row_size(config.head_dim, dtype) * dtype.itemsize
    block_bytes = per_token * options.block_size
    longest = min(options.max_model_len or config.max_position_embeddings, config.max_position_embeddings)
    memory = min(typical_memory(options, longest, block_bytes), int(budget * _KV_SHARE))
    # A length that was asked for has to fit; the context of the model need not.
    least = block_bytes if options.max_model_len is None else -(-longest // options.block_size) * block_bytes
    return max(memory, least)


def _weight_bytes(folder: CheckpointFolder, dtype: torch.dtype | None, scheme: Scheme | None) -> tuple[int, bool]:
    """Bytes of all tensors in the type that they are loaded in, and whether some are integers.

    FP8 is loaded as bfloat16, matrices in `scheme` where one is given. An upper bound: a checkpoint may hold parts that
    are not loaded.
    """
    if folder.layout == "gguf":
        return _gguf_bytes(folder.path)
    loaded_as = dtype or (torch.bfloat16 if folder.quantization else None)
    tables = [names(folder.config) for names in folder.architecture.names]
    encoders = {b.source for table in tables for b in table.bindings if b.target.startswith(ENCODERS)}
    total, quantised = 0, scheme is not None
    for path in folder.files:
        try:
            with SafetensorsFile(path) as file:
                for name, entry in file.tensors.items():
                    floating = entry.dtype.is_floating_point
                    if scheme is not None and floating and len(entry.shape) == 2 and name not in encoders:
                        panels, groups = scheme.shapes(entry.shape[0], entry.shape[1])
                        total += math.prod(panels) + math.prod(groups) * (4 if scheme.shifted else 2)
                        continue
                    held = loaded_as if loaded_as is not None and floating else entry.dtype
                    total += entry.size // entry.dtype.itemsize * held.itemsize
                    quantised |= not floating
        except CheckpointError:
            total += path.stat().st_size  # Loading it will tell what is wrong with it.
    return total, quantised


def _gguf_bytes(path: Path) -> tuple[int, bool]:
    total, quantised = 0.0, False
    for entry in read_header(path).tensors.values():
        weights, scheme = math.prod(entry.shape), gguf_blocks.scheme_of(entry.type)
        if scheme is not None:
            total, quantised = total + weights * scheme.bits_per_weight / 8, True
        elif entry.type in gguf_blocks.DENSE:  # Loading it will tell what is wrong with other types.
            total += weights * 4
    return int(total), quantised


def main(argv: Sequence[str] | None = None) -> int:
    """Print a Survey as JSON, or a WireError with exit code 1."""
    parser = argparse.ArgumentParser(description="Sizes models. Started by Ostro itself, not by hand.")
    parser.add_argument("--models", required=True, help="EngineOptions, a JSON list")
    parser.add_argument("--budget", type=int)
    given = parser.parse_args(argv)
    try:
        models = msgspec.json.decode(given.models, type=list[EngineOptions])
        answer: Survey | WireError = survey(models, given.budget)
    except OstroError as error:
        answer = WireError.of(error)
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    return 1 if isinstance(answer, WireError) else 0


if __name__ == "__main__":
    sys.exit(main())
