"""Model shapes to measure on, as random checkpoints: speed does not depend on what the weights say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file

from ostro.models.layers.decoder import Decoder
from ostro.models.mistral.config import parse
from ostro.weights.writer import hf_tensors

Model = TypeVar("Model", bound=Decoder)

_COMMON: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "sliding_window": None,
    "max_position_embeddings": 8192,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

SHAPES: dict[str, dict[str, Any]] = {
    # 12 layers of width 768: 108 million parameters with a tied head.
    "110m": {
        **_COMMON,
        "vocab_size": 32000,
        "hidden_size": 768,
        "intermediate_size": 2304,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
    },
    # 22 layers of width 2048: 1.1 billion parameters.
    "1b": {
        **_COMMON,
        "vocab_size": 32000,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "7b": {
        **_COMMON,
        "vocab_size": 32768,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "rope_theta": 1000000.0,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
    },
}


def randomised(model: Model) -> Model:
    """With weights of chance, the same each time."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0) if parameter.dim() == 1 else parameter.normal_(std=0.02)
    return model.eval()


def make_checkpoint(shape: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a random checkpoint of a shape, unless it is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "config.json").is_file():
        return folder
    model = randomised(Decoder(parse(SHAPES[shape])))
    save_file(hf_tensors(model, dtype), folder / "model.safetensors", metadata={"format": "pt"})
    text = json.dumps({**SHAPES[shape], "torch_dtype": str(dtype).removeprefix("torch.")})
    (folder / "config.json").write_text(text)
    return folder
