"""`model_type: mistral`: one window, or none, for all layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ostro.models.config import DecoderConfig
from ostro.models.json_config import MAX_LAYERS, ConfigReader, read_dtype, read_eos, read_rope

DEFAULT_THETA = 10_000.0
# What the reference implementation takes for a key that config.json leaves out. A null is not left out: it is
# "no window".
DEFAULTS: Mapping[str, Any] = {"sliding_window": 4096, "num_key_value_heads": 8, "rms_norm_eps": 1e-6}


def read_shape(reader: ConfigReader) -> dict[str, Any]:
    """The keys that all dense HF configs of the family share, as DecoderConfig fields."""
    heads, hidden = reader.integer("num_attention_heads"), reader.integer("hidden_size")
    reader.expect("hidden_act", "silu", "swish")
    reader.expect("attention_bias", False, None)
    reader.expect("mlp_bias", False, None)
    return {
        "vocab_size": reader.integer("vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": reader.integer("intermediate_size"),
        "num_layers": reader.integer("num_hidden_layers", most=MAX_LAYERS),
        "num_heads": heads,
        "num_kv_heads": reader.integer("num_key_value_heads", heads),
        "head_dim": reader.integer("head_dim", hidden // heads),
        "rms_norm_eps": reader.real("rms_norm_eps"),
        "max_position_embeddings": reader.integer("max_position_embeddings"),
        "tie_word_embeddings": reader.flag("tie_word_embeddings"),
    }


def parse(values: Mapping[str, Any], defaults: Mapping[str, Any] = DEFAULTS) -> DecoderConfig:
    """config.json -> DecoderConfig. Raises ConfigError for missing, wrong or unknown keys."""
    reader = ConfigReader({**defaults, **values}, "config.json (mistral)")
    shape = read_shape(reader)
    theta, yarn, query_scaling = read_rope(reader, DEFAULT_THETA)
    window = reader.window()
    # Present in some checkpoints as an echo of sliding_window; what it may say is checked.
    for kind in set(reader.words("layer_types") or ()):
        ConfigReader({"layer_types": kind}, "config.json (mistral)").expect(
            "layer_types", "sliding_attention" if window else "full_attention"
        )
    reader.ignore(("quantization_config", "compression_config", "use_sliding_window", "max_window_layers"))
    reader.finish()
    return DecoderConfig(
        architecture="mistral",
        **shape,
        rope_theta=theta,
        yarn=yarn,
        query_scaling=query_scaling,
        windows=(window,) * shape["num_layers"],
        dtype=read_dtype(values),
        eos_token_ids=read_eos(values),
    )
