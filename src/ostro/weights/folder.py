"""What a checkpoint folder holds: its config, its architecture and its weight files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ostro.core.errors import CheckpointError, ConfigError, ModelNotFoundError
from ostro.core.gguf import read_header
from ostro.models import registry
from ostro.models.config import DecoderConfig
from ostro.models.gguf_names import gguf_names
from ostro.models.layers.decoder import Decoder
from ostro.models.registry import Architecture
from ostro.weights.checkpoint import Checkpoint
from ostro.weights.gguf_blocks import DENSE
from ostro.weights.gguf_config import gguf_config
from ostro.weights.gguf_weights import GGUFWeights
from ostro.weights.quantised import awq, compressed_tensors, gptq
from ostro.weights.safetensors_weights import SafetensorsWeights

INDEX = "model.safetensors.index.json"
# Where makers said how weights are quantised before config.json did: AutoGPTQ, and AutoAWQ in its first versions.
QUANTIZATION_FILES = ("quantize_config.json", "quant_config.json")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class CheckpointFolder:
    """What can be loaded, a folder or a GGUF file. `layout`: which weight format is taken, "hf", "native" or "gguf"."""

    path: Path
    layout: str
    architecture: Architecture
    config: DecoderConfig
    files: tuple[Path, ...]
    quantization: dict[str, Any] | None

    def open_weights(self) -> Checkpoint:
        """Raises CheckpointError for files that are broken or of an unknown format."""
        if self.layout == "gguf":
            return GGUFWeights(self.path)
        return SafetensorsWeights(str(self.path), self.files, self.quantization)


def open_folder(path: Path) -> CheckpointFolder:
    """Read a folder's configs, or a GGUF file's header, and find its weights; nothing is loaded yet.

    Where both layouts are there the Hugging Face one is taken. Raises ModelNotFoundError, ConfigError and
    CheckpointError.
    """
    if path.is_file() and path.suffix == ".gguf":
        return _open_gguf(path)
    if not path.is_dir():
        raise ModelNotFoundError(
            f"{path} is neither a folder nor a .gguf file. Give a checkpoint folder, a GGUF file or a model's name."
        )
    hf_files = _hf_files(path) if (path / "config.json").is_file() else ()
    if hf_files:
        values = read_json(path / "config.json")
        architecture = registry.find(values.get("model_type"))
        config = architecture.parse(values)
        return CheckpointFolder(path, "hf", architecture, config, hf_files, _quantization(path, values))
    native_files = tuple(sorted(path.glob("consolidated*.safetensors")))
    if native_files and (path / "params.json").is_file():
        values = read_json(path / "params.json")
        config = registry.NATIVE.parse(values)
        quantization = values.get("quantization")
        return CheckpointFolder(path, "native", registry.NATIVE, config, native_files, quantization)
    raise _no_weights(path)


def _quantization(path: Path, values: Mapping[str, Any]) -> Any:
    """What a Hugging Face folder says of how its weights are stored; None where it says nothing."""
    if values.get("quantization_config"):
        return values["quantization_config"]
    older = values.get("compression_config")
    if older:
        # What only compressed-tensors wrote; at first it called its method by the name of another package.
        return {**older, "quant_method": compressed_tensors.METHOD} if isinstance(older, dict) else older
    for name in QUANTIZATION_FILES:
        if (path / name).is_file():
            found = read_json(path / name)
            method = awq.METHOD if "w_bit" in found or "q_group_size" in found else gptq.METHOD
            return {"quant_method": method} | found
    return None


def _open_gguf(path: Path) -> CheckpointFolder:
    header = read_header(path)
    config = gguf_config(header.metadata, header.tensors.keys())
    kind = str(header.metadata["general.architecture"])
    # The config is read already: its JSON is never asked for.
    architecture = Architecture(lambda _: config, (lambda found: gguf_names(found, kind),), Decoder)
    quantization = {"quant_method": "gguf"} if any(t.type not in DENSE for t in header.tensors.values()) else None
    return CheckpointFolder(path, "gguf", architecture, config, (path,), quantization)


def _hf_files(path: Path) -> tuple[Path, ...]:
    index = path / INDEX
    if not index.is_file():
        # The second is AutoGPTQ's older name.
        for pattern in ("model*.safetensors", "gptq_model*.safetensors"):
            if found := tuple(sorted(path.glob(pattern))):
                return found
        return ()
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index} has no 'weight_map' of tensor names to file names; download it again.")
    files = []
    for name in sorted(set(weight_map.values())):
        file = path / name
        if file.name != name:
            raise CheckpointError(f"{index} names the file {name!r}, which is not a plain file name.")
        if not file.is_file():
            raise CheckpointError(f"{path} lacks {name}, which its index names; download the missing shard.")
        files.append(file)
    return tuple(files)


def _no_weights(path: Path) -> CheckpointError:
    pickles = sorted(file.name for pattern in PICKLES for file in path.glob(pattern))
    if pickles:
        return CheckpointError(
            f"{path} holds weights as pickles only ({', '.join(pickles[:3])}). Loading a pickle can run any code, so "
            "none is ever loaded: convert the checkpoint to safetensors."
        )
    return CheckpointError(
        f"{path} holds no checkpoint: expected config.json with model*.safetensors, or params.json with "
        "consolidated*.safetensors."
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ConfigError where it is not one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a JSON object.")
    return values
