"""The metadata of a GGUF file as a model's config.

Keys are those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and of llama.cpp's llama-arch.cpp; what
they mean where they are missing is what llama.cpp takes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from ostro.core.errors import ConfigError
from ostro.core.gguf import Scalar, Value
from ostro.models.config import DecoderConfig, QueryScaling, YarnConfig
from ostro.models.gguf_names import ARCHITECTURES
from ostro.models.json_config import MAX_LAYERS, ConfigReader, check_window

DEFAULT_THETA = 10_000.0
# Anything longer is no value of a config, and would flood an error message.
MAX_TEXT = 100
MAX_KEYS = 200
END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
# Tensors that say by their presence that the model needs something this version does not do.
REFUSED_TENSORS = {
    ".bias": "a bias",
    "rope_freqs.weight": "rotary frequencies of its own",
    "rope_factors_long.weight": "rotary frequencies of its own",
    "rope_factors_short.weight": "rotary frequencies of its own",
    "_exps.weight": "experts",
    "ffn_gate_inp.weight": "experts",
}


def gguf_config(metadata: Mapping[str, Value], tensor_names: Collection[str] = ()) -> DecoderConfig:
    """Metadata, and the names of the file's tensors, to a DecoderConfig.

    Raises ConfigError for another architecture, for missing, wrong or unknown keys of it, and for tensors that the
    model could not use.
    """
    architecture = _find_architecture(metadata)
    _check_tensors(tensor_names)
    reader = ConfigReader(_own_keys(metadata, f"{architecture}."), f"GGUF metadata ({architecture})")
    shape = _read_shape(reader, metadata)
    context = shape["max_position_embeddings"]
    yarn, original = _read_rope_scaling(reader, context)
    scaling = _read_query_scaling(reader, original) if architecture == "mistral3" else None
    window = check_window(reader.optional("attention.sliding_window") or None, "GGUF metadata")
    epsilon = reader.real("attention.layer_norm_rms_epsilon")
    theta = reader.real("rope.freq_base", DEFAULT_THETA)
    reader.expect("expert_count", 0)
    reader.expect("expert_used_count", 0)
    reader.expect("attention.causal", True)
    reader.expect("tensor_data_layout", "Meta AI original pth")
    reader.finish()
    return DecoderConfig(
        architecture="mistral" if yarn is None and scaling is None else "ministral3",
        **shape,
        rms_norm_eps=epsilon,
        rope_theta=theta,
        windows=(window,) * shape["num_layers"],
        # A file without output.weight shares the embedding.
        tie_word_embeddings=None,
        yarn=yarn,
        query_scaling=scaling,
        eos_token_ids=_read_end_tokens(metadata, shape["vocab_size"]),
    )


def _find_architecture(metadata: Mapping[str, Value]) -> str:
    """The architecture of a file that holds one whole model."""
    general = {key: metadata.get(key) for key in ("general.architecture", "general.type", "split.count")}
    architecture = _short(general["general.architecture"], "general.architecture")
    if architecture not in ARCHITECTURES:
        raise ConfigError(
            f"The GGUF file is of the architecture {architecture!r}; supported are {' and '.join(ARCHITECTURES)}.",
            param="general.architecture",
        )
    kind = _short(general["general.type"], "general.type")
    if kind not in (None, "model"):
        raise ConfigError(f"The GGUF file holds {kind!r}, not a model.", param="general.type")
    parts = _short(general["split.count"], "split.count")
    if parts not in (None, 0, 1):
        raise ConfigError(
            f"The GGUF file is one of {parts} parts of a model; merge them with llama-gguf-split --merge first.",
            param="split.count",
        )
    version = _short(metadata.get("general.quantization_version"), "general.quantization_version")
    if version not in (None, 2):
        raise ConfigError(
            f"The GGUF file was quantised in layout {version}; only layout 2 is read. Convert the model again.",
            param="general.quantization_version",
        )
    return str(architecture)


def _check_tensors(names: Collection[str]) -> None:
    for name in names:
        for ending, meaning in REFUSED_TENSORS.items():
            if name.endswith(ending):
                raise ConfigError(
                    f"The GGUF file holds {name[:MAX_TEXT]!r}: the model has {meaning}, which is not supported for "
                    f"{' and '.join(ARCHITECTURES)}.",
                    param="general.architecture",
                )


def _own_keys(metadata: Mapping[str, Value], prefix: str) -> dict[str, Scalar | None]:
    keys = [key for key in metadata if key.startswith(prefix)]
    if len(keys) > MAX_KEYS or max(map(len, keys), default=0) > MAX_TEXT:
        raise ConfigError(
            f"GGUF metadata: there are {len(keys)} keys that begin with {prefix!r}; at most {MAX_KEYS} of up to "
            f"{MAX_TEXT} characters make sense.",
            param="general.architecture",
        )
    return {key.removeprefix(prefix): _short(metadata[key], key) for key in keys}


def _short(value: Value | None, key: str) -> Scalar | None:
    """The value, unless it is a list or a long text."""
    if isinstance(value, tuple):
        raise ConfigError(
            f"GGUF metadata: {key[:MAX_TEXT]!r} is a list of {len(value)}; one value for all layers is supported.",
            param=key[:MAX_TEXT],
        )
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise ConfigError(
            f"GGUF metadata: {key[:MAX_TEXT]!r} is a text of {len(value)} characters; at most {MAX_TEXT} make sense.",
            param=key[:MAX_TEXT],
        )
    return value


def _read_shape(reader: ConfigReader, metadata: Mapping[str, Value]) -> dict[str, Any]:
    hidden, heads = reader.integer("embedding_length"), reader.integer("attention.head_count")
    head_dim = reader.integer("attention.key_length", hidden // heads)
    reader.expect("attention.value_length", head_dim)
    reader.expect("rope.dimension_count", head_dim)
    return {
        "vocab_size": _read_vocab_size(reader, metadata),
        "hidden_size": hidden,
        "intermediate_size": reader.integer("feed_forward_length"),
        "num_layers": reader.integer("block_count", most=MAX_LAYERS),
        "num_heads": heads,
        "num_kv_heads": reader.integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": reader.integer("context_length"),
    }


def _read_vocab_size(reader: ConfigReader, metadata: Mapping[str, Value]) -> int:
    """The list of tokens counts, as for llama.cpp: its converter fills it up to the embedding's rows."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, tuple) and tokens:
        reader.optional("vocab_size")
        return len(tokens)
    return reader.integer("vocab_size")


def _read_rope_scaling(reader: ConfigReader, context: int) -> tuple[YarnConfig | None, int]:
    """YaRN, or None, and the context length that the model was made for before it was extended.

    yarn_log_multiplier is the checkpoint's mscale_all_dim, beside an mscale of 1: cos and sin are multiplied by
    (0.1 ln factor + 1) / (0.1 mscale_all_dim ln factor + 1), by the numerator where it is 0 or missing
    (llama-context.cpp, `yarn_attn_factor`).
    """
    kind = reader.optional("rope.scaling.type") or "linear"
    factor = reader.real("rope.scaling.factor", reader.optional("rope.scale_linear") or 1.0)
    original = reader.integer("rope.scaling.original_context_length", context)
    fast, slow = reader.real("rope.scaling.yarn_beta_fast", 32.0), reader.real("rope.scaling.yarn_beta_slow", 1.0)
    all_dim = _finite(reader, "rope.scaling.yarn_log_multiplier")
    for key in ("attn_factor", "yarn_attn_factor", "yarn_ext_factor"):
        reader.expect(f"rope.scaling.{key}", 1.0)
    reader.ignore(("rope.scaling.finetuned",))
    if kind == "yarn":
        return YarnConfig(factor, original, fast, slow, mscale=1.0, mscale_all_dim=all_dim or None), original
    if kind == "none" or (kind == "linear" and factor in (0.0, 1.0)):
        return None, original
    raise ConfigError(
        f"GGUF metadata: rotary scaling of the type {kind!r} by {factor:g} is not supported; 'yarn' and no scaling "
        "are.",
        param="rope.scaling.type",
    )


def _read_query_scaling(reader: ConfigReader, original: int) -> QueryScaling | None:
    beta = _finite(reader, "attention.temperature_scale")
    length = reader.integer("attention.temperature_length", original)
    return QueryScaling(beta, length) if beta else None


def _finite(reader: ConfigReader, key: str) -> float:
    """A number, 0 where it is missing."""
    value = reader.real(key, 0.0)
    if not math.isfinite(value):
        raise ConfigError(f"GGUF metadata: {key!r} must be a finite number, not {value}.", param=key)
    return value


def _read_end_tokens(metadata: Mapping[str, Value], vocab_size: int) -> tuple[int, ...]:
    """The tokens that end an answer: of the text, of a turn, of a message."""
    found: list[int] = []
    for key in END_KEYS:
        token = metadata.get(f"tokenizer.ggml.{key}")
        if token is None or token in found:
            continue
        if type(token) is not int or not 0 <= token < vocab_size:
            raise ConfigError(
                f"GGUF metadata: 'tokenizer.ggml.{key}' must be one of {vocab_size} token ids.",
                param=f"tokenizer.ggml.{key}",
            )
        found.append(token)
    return tuple(found)
