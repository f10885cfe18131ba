"""Writes a model as a Hugging Face checkpoint folder that any tool of the field loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ostro.models.config import DecoderConfig
from ostro.models.layers.decoder import Decoder
from ostro.models.names import hf_names


def hf_tensors(model: Decoder, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """The model's weights under their Hugging Face names, contiguous, on the CPU."""
    tensors: dict[str, torch.Tensor] = {}
    for binding in hf_names(model.config):
        if binding.target == "head" and model.head is None:
            continue
        part = model.get_submodule(binding.target).part(binding.part)  # type: ignore[operator]  # has part()
        tensors[binding.source] = part.detach().to("cpu", dtype or part.dtype).contiguous().clone()
    return tensors


def hf_config(config: DecoderConfig, dtype: torch.dtype) -> dict[str, Any]:
    """config.json of a `mistral` checkpoint: one window for all layers, plain rotary positions."""
    assert config.yarn is None
    assert config.query_scaling is None
    assert len(set(config.windows)) == 1
    eos = config.eos_token_ids or (2,)
    return {
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
        "sliding_window": config.windows[0] or None,
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": bool(config.tie_word_embeddings),
        "bos_token_id": 1,
        "eos_token_id": eos[0] if len(eos) == 1 else list(eos),
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def save_checkpoint(model: Decoder, folder: Path, *, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write config.json and model.safetensors into `folder`, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(hf_tensors(model, dtype), folder / "model.safetensors", metadata={"format": "pt"})
    text = json.dumps(hf_config(model.config, dtype), indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
