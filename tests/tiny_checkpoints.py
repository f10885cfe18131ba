"""Tiny random checkpoints of every supported model type, made with the reference implementation (transformers)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

SHAPE: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}


@dataclass(frozen=True)
class Tiny:
    """A checkpoint folder and the reference model whose weights it holds (float32)."""

    folder: Path
    reference: Any

    def reference_logits(self, ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            out: torch.Tensor = self.reference(input_ids=torch.tensor([ids])).logits[0]
        return out


def _mistral(**changes: Any) -> Any:
    config = transformers.MistralConfig(**{**SHAPE, "sliding_window": None, **changes})
    return transformers.MistralForCausalLM(config)


def _ministral() -> Any:
    kinds = ["full_attention", "sliding_attention", "sliding_attention"]
    config = transformers.MinistralConfig(**SHAPE, sliding_window=16, layer_types=kinds, head_dim=16)
    return transformers.MinistralForCausalLM(config)


def _ministral3(**changes: Any) -> Any:
    config = transformers.Ministral3Config(**{**SHAPE, "head_dim": 16, "rope_parameters": dict(YARN), **changes})
    return transformers.Ministral3ForCausalLM(config)


VISION: dict[str, Any] = {
    "model_type": "pixtral",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "head_dim": 16,
    "image_size": 112,
    "patch_size": 14,
}


def _mistral3(text: dict[str, Any], act: str = "silu") -> Any:
    config = transformers.Mistral3Config(
        text_config=text, vision_config={**VISION, "hidden_act": act}, tie_word_embeddings=False
    )
    return transformers.Mistral3ForConditionalGeneration(config)


def _llava(*, bias: bool = True, **changes: Any) -> Any:
    text = {**SHAPE, "model_type": "mistral", "head_dim": 16, "sliding_window": None, **changes}
    config = transformers.LlavaConfig(
        text_config=text,
        vision_config={**VISION, "patch_size": 8, "hidden_act": "silu"},
        image_token_index=10,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        multimodal_projector_bias=bias,
    )
    return transformers.LlavaForConditionalGeneration(config)


# Chunks of 40 frames, five tokens.
AUDIO: dict[str, Any] = {
    "model_type": "voxtral_encoder",
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_mel_bins": 16,
    "max_source_positions": 20,
}


def _voxtral() -> Any:
    text = {**SHAPE, "model_type": "llama", "head_dim": 16}
    config = transformers.VoxtralConfig(text_config=text, audio_config=dict(AUDIO), audio_token_id=24)
    return transformers.VoxtralForConditionalGeneration(config)


MAKERS: dict[str, Any] = {
    "mistral-v0.1": lambda: _mistral(sliding_window=16),
    "mistral-v0.3": lambda: _mistral(rope_theta=1e6),
    "mistral-nemo": lambda: _mistral(head_dim=20, rope_theta=1e6),
    # Rows of whole blocks of 32, as quantised formats want them.
    "mistral-blocks": lambda: _mistral(hidden_size=64, intermediate_size=128, head_dim=16),
    "mistral-tied": lambda: _mistral(tie_word_embeddings=True),
    "ministral": _ministral,
    "ministral3": lambda: _ministral3(),
    "ministral3-tied": lambda: _ministral3(tie_word_embeddings=True),
    "mistral3-mistral": lambda: _mistral3({**SHAPE, "model_type": "mistral", "head_dim": 16, "sliding_window": None}),
    "mistral3-ministral3": lambda: _mistral3(
        {**SHAPE, "model_type": "ministral3", "head_dim": 16, "rope_parameters": dict(YARN)}, act="gelu"
    ),
    "llava": lambda: _llava(),
    # As Pixtral Large: no biases in the projector, rotary embedding for a long context.
    "llava-large": lambda: _llava(bias=False, rope_theta=1e9),
    "voxtral": _voxtral,
}


def make(kind: str, folder: Path, *, shard_size: str = "1GB", seed: int = 0) -> Tiny:
    """Build one kind with fixed random weights, large enough for attention to be sharp, and save it."""
    torch.manual_seed(seed)
    return save(MAKERS[kind](), folder, shard_size=shard_size)


def save(model: Any, folder: Path, *, shard_size: str = "1GB") -> Tiny:
    """A model with random weights, large enough for attention to be sharp."""
    model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_pre" in name:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(std=0.15)
    model.save_pretrained(folder, max_shard_size=shard_size)
    return Tiny(folder, model)


def interleave(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rotate-half rows back to the native layout's pairs, spelled out row by row."""
    out = torch.empty_like(weight)
    half = head_dim // 2
    for head in range(weight.shape[0] // head_dim):
        for pair in range(half):
            out[head * head_dim + 2 * pair] = weight[head * head_dim + pair]
            out[head * head_dim + 2 * pair + 1] = weight[head * head_dim + half + pair]
    return out


NATIVE_NAMES = {
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
}


NATIVE_VISION_NAMES = {
    "attention_norm": "attention_norm",
    "ffn_norm": "ffn_norm",
    "attention.q_proj": "attention.wq",
    "attention.k_proj": "attention.wk",
    "attention.v_proj": "attention.wv",
    "attention.o_proj": "attention.wo",
    "feed_forward.gate_proj": "feed_forward.w1",
    "feed_forward.down_proj": "feed_forward.w2",
    "feed_forward.up_proj": "feed_forward.w3",
}
NATIVE_PROJECTOR_NAMES = {
    "norm.weight": "pre_mm_projector_norm.weight",
    "patch_merger.merging_layer.weight": "patch_merger.merging_layer.weight",
    "linear_1.weight": "vision_language_adapter.w_in.weight",
    "linear_1.bias": "vision_language_adapter.w_in.bias",
    "linear_2.weight": "vision_language_adapter.w_out.weight",
    "linear_2.bias": "vision_language_adapter.w_out.bias",
}


def _native_vision(name: str, value: torch.Tensor) -> tuple[str, torch.Tensor]:
    """A tensor of the image part under its native name. name: without the leading "model."."""
    part, rest = name.split(".", 1)
    if part == "multi_modal_projector":
        return NATIVE_PROJECTOR_NAMES[rest], value
    if not rest.startswith("transformer.layers."):
        return f"vision_encoder.{rest}", value
    _, _, layer, stem = rest.removesuffix(".weight").split(".", 3)
    if stem in ("attention.q_proj", "attention.k_proj"):
        value = interleave(value, VISION["head_dim"])
    return f"vision_encoder.transformer.layers.{layer}.{NATIVE_VISION_NAMES[stem]}.weight", value


def to_native(tiny: Tiny, folder: Path, extra: dict[str, Any]) -> None:
    """Write the weights of a checkpoint as params.json and consolidated.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny.reference.config.get_text_config()
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    tensors = {}
    for stored, value in load_file(tiny.folder / "model.safetensors").items():
        name = stored.replace("language_model.model.", "model.").replace("language_model.lm_head", "lm_head")
        name = name.replace("model.language_model.", "model.")
        if "vision_tower" in name or "multi_modal_projector" in name:
            new, value = _native_vision(name.removeprefix("model."), value)
            tensors[new] = value.contiguous()
            continue
        new = {
            "model.embed_tokens.weight": "tok_embeddings.weight",
            "model.norm.weight": "norm.weight",
            "lm_head.weight": "output.weight",
        }.get(name)
        if new is None:
            _, _, layer, rest = name.split(".", 3)
            stem = rest.removesuffix(".weight")
            new = f"layers.{layer}.{NATIVE_NAMES[stem]}.weight"
            if stem in ("self_attn.q_proj", "self_attn.k_proj"):
                value = interleave(value, head_dim)
        tensors[new] = value.contiguous()
    save_file(tensors, folder / "consolidated.safetensors")
    params = {
        "dim": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "head_dim": head_dim,
        "hidden_dim": config.intermediate_size,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "norm_eps": config.rms_norm_eps,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        **extra,
    }
    (folder / "params.json").write_text(json.dumps(params))
