"""Writes a model as a Hugging Face checkpoint folder that any tool of the field loads."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ostro.core.errors import ConfigError
from ostro.models.config import DecoderConfig
from ostro.models.layers.decoder import Decoder
from ostro.models.names import hf_names
from ostro.models.ostro.config import OstroConfig
from ostro.models.ostro.config import to_json as ostro_json
from ostro.models.ostro.names import names as ostro_names
from ostro.weights.folder import CheckpointFolder, read_json
from ostro.weights.quantised.ostro import PackedWeight, quantization_config


def hf_tensors(model: Decoder, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """The model's weights under their Hugging Face names, contiguous, on the CPU.

    A tensor that the names leave out would be lost in silence: that is a ConfigError.
    """
    tensors: dict[str, torch.Tensor] = {}
    bindings = ostro_names(model.config).bindings if isinstance(model.config, OstroConfig) else hf_names(model.config)
    if not isinstance(model.config, OstroConfig) and model.config.encoders:
        raise ConfigError("A decoder with another maker's encoder cannot be written yet; copy its checkpoint.")
    for binding in bindings:
        if binding.target == "head" and model.head is None:
            continue
        part = model.get_submodule(binding.target).part(binding.part)  # type: ignore[operator]  # has part()
        tensors[binding.source] = part.detach().to("cpu", dtype or part.dtype).contiguous().clone()
    return tensors


def hf_config(config: DecoderConfig, dtype: torch.dtype) -> dict[str, Any]:
    """config.json of a checkpoint: `mistral`, `ministral` where layers have different windows, `ministral3` where
    positions are scaled. Raises ConfigError for both at once, which no model type has."""
    eos = config.eos_token_ids or (2,)
    windows = set(config.windows)
    values: dict[str, Any] = {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "sliding_window": max(windows) or None,
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": bool(config.tie_word_embeddings),
        "bos_token_id": 1,
        "eos_token_id": eos[0] if len(eos) == 1 else list(eos),
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    if isinstance(config, OstroConfig):
        return values | {"architectures": ["OstroForCausalLM"], "model_type": "ostro"} | ostro_json(config)
    scaled = config.yarn is not None or config.query_scaling is not None
    if (len(windows) > 1 and scaled) or len(windows - {0}) > 1 or (config.query_scaling and config.yarn is None):
        raise ConfigError(
            "The checkpoint mixes attention windows and scaled positions in a way that no Hugging Face model type has, "
            "so it cannot be written as one."
        )
    if len(windows) > 1:
        kinds = ["sliding_attention" if window else "full_attention" for window in config.windows]
        values |= {"architectures": ["MinistralForCausalLM"], "model_type": "ministral", "layer_types": kinds}
    elif scaled:
        del values["rope_theta"]
        values |= {"architectures": ["Ministral3ForCausalLM"], "model_type": "ministral3"}
        values["rope_parameters"] = _rope_parameters(config)
    return values


def _rope_parameters(config: DecoderConfig) -> dict[str, Any]:
    yarn, scaling = config.yarn, config.query_scaling
    assert yarn is not None
    if scaling is not None and scaling.original_max_position_embeddings != yarn.original_max_position_embeddings:
        raise ConfigError("The checkpoint scales queries and positions from different lengths, which is not written.")
    given = {name: value for name, value in dataclasses.asdict(yarn).items() if value is not None}
    beta = {} if scaling is None else {"llama_4_scaling_beta": scaling.beta}
    return {"rope_type": "yarn", "rope_theta": config.rope_theta, **given, **beta}


def save_checkpoint(model: Decoder, folder: Path, *, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write config.json and model.safetensors into `folder`, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(hf_tensors(model, dtype), folder / "model.safetensors", metadata={"format": "pt"})
    text = json.dumps(hf_config(model.config, dtype), indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


# Files of a checkpoint folder that belong to a quantised one too. Not its card, which tells figures of another model.
_COMPANIONS = (
    "tekken*.json",
    "tokenizer*",
    "*.model",
    "*.model.v*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "SYSTEM_PROMPT.txt",
    "LICENSE*",
    "NOTICE*",
)


def finish_quantised(
    folder: CheckpointFolder, config: DecoderConfig, weights: Mapping[str, PackedWeight], out: Path
) -> None:
    """Write config.json of a quantised checkpoint, and copy what belongs to it from where it was made.

    config: of the model as it was loaded. weights: those that are quantised. A native folder gets a Hugging Face
    config.
    """
    if folder.layout == "hf":
        values = read_json(folder.path / "config.json") | {"tie_word_embeddings": bool(config.tie_word_embeddings)}
    else:
        values = hf_config(config, torch.bfloat16)
    values["quantization_config"] = quantization_config(weights)
    (out / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    for pattern in _COMPANIONS:
        for file in sorted(folder.path.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, out / file.name)
