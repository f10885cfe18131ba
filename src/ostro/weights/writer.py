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
from ostro.models.mistral3.names import names as mistral3_names
from ostro.models.names import NamesTable, hf_names
from ostro.models.ostro.config import OstroConfig
from ostro.models.ostro.config import to_json as ostro_json
from ostro.models.ostro.names import names as ostro_names
from ostro.models.pixtral.config import PixtralConfig
from ostro.weights.folder import CheckpointFolder, read_json
from ostro.weights.quantised.ostro import PackedWeight, quantization_config


def hf_tensors(model: Decoder, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """The model's weights under their Hugging Face names, contiguous, on the CPU.

    A tensor that the names leave out would be lost in silence: that is a ConfigError.
    """
    tensors: dict[str, torch.Tensor] = {}
    for binding in hf_table(model.config).bindings:
        if binding.target == "head" and model.head is None:
            continue
        part = model.get_submodule(binding.target).part(binding.part)  # type: ignore[operator]  # has part()
        tensors[binding.source] = part.detach().to("cpu", dtype or part.dtype).contiguous().clone()
    return tensors


def hf_table(config: DecoderConfig) -> NamesTable:
    """The names that go with `hf_config`. Raises ConfigError for encoders that are not written."""
    if isinstance(config, OstroConfig):
        return ostro_names(config)
    if not config.encoders:
        return NamesTable(hf_names(config))
    _image_encoder(config)
    return mistral3_names(config)


def hf_config(config: DecoderConfig, dtype: torch.dtype) -> dict[str, Any]:
    """config.json of a checkpoint: `mistral`, `ministral` where layers have different windows, `ministral3` where
    positions are scaled; with Pixtral's encoder `llava`, or `mistral3` where patches are merged. Raises ConfigError for
    what no model type has."""
    if config.encoders and not isinstance(config, OstroConfig):
        return _with_images(hf_config(dataclasses.replace(config, encoders=()), dtype), _image_encoder(config))
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


def _image_encoder(config: DecoderConfig) -> PixtralConfig:
    found = config.encoders[0]
    if len(config.encoders) > 1 or not isinstance(found, PixtralConfig):
        raise ConfigError(
            "A decoder with an encoder other than Pixtral's is not written. Take its Hugging Face checkpoint "
            "(config.json), or quantise it on load: ostro serve --quantize."
        )
    return found


def _with_images(text: dict[str, Any], encoder: PixtralConfig) -> dict[str, Any]:
    merged = encoder.merge > 1
    if encoder.projector_norm is not merged or text["model_type"] not in ("mistral", "ministral3")[: 1 + merged]:
        raise ConfigError("The checkpoint joins a decoder and an image encoder in a way that no model type has.")
    vision = {
        "model_type": "pixtral",
        "hidden_size": encoder.hidden_size,
        "intermediate_size": encoder.intermediate_size,
        "num_hidden_layers": encoder.num_layers,
        "num_attention_heads": encoder.num_heads,
        "head_dim": encoder.head_dim,
        "patch_size": encoder.patch_size,
        "image_size": encoder.image_size,
        "num_channels": encoder.channels,
        "rope_theta": encoder.rope_theta,
        "hidden_act": encoder.activation,
    }
    kind = "mistral3" if merged else "llava"
    return {
        "architectures": [f"{kind.capitalize()}ForConditionalGeneration"],
        "model_type": kind,
        **({"spatial_merge_size": encoder.merge} if merged else {"vision_feature_select_strategy": "full"}),
        "text_config": text,
        "vision_config": vision,
        "vision_feature_layer": -1,
        "image_token_index": encoder.placeholder,
        "projector_hidden_act": encoder.projector_activation,
        "multimodal_projector_bias": encoder.projector_bias,
        "tie_word_embeddings": text["tie_word_embeddings"],
        "torch_dtype": text["torch_dtype"],
    }


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
