"""GGUF metadata as a config: what converters write is read as the checkpoint's own config is, the rest is refused."""

from __future__ import annotations

import math
from typing import Any

import gguf
import pytest
import torch

from ostro.core.errors import ConfigError
from ostro.models.config import QueryScaling
from ostro.models.gguf_names import gguf_names
from ostro.models.layers.rotary import yarn_frequencies
from ostro.models.ministral3 import config as ministral3
from ostro.models.names import hf_names
from ostro.weights.gguf_config import gguf_config

TOKENS = tuple(f"t{i}" for i in range(1000))

# Mistral 7B v0.3.
LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.type": "model",
    "general.name": "Mistral 7B Instruct v0.3",
    "general.file_type": 2,
    "general.quantization_version": 2,
    "llama.block_count": 32,
    "llama.context_length": 32768,
    "llama.embedding_length": 4096,
    "llama.feed_forward_length": 14336,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 8,
    "llama.rope.freq_base": 1000000.0,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.vocab_size": 1000,
    "llama.rope.dimension_count": 128,
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.eos_token_id": 2,
}
# Ministral 3 3B, as llama.cpp's log prints the published file; floats are float32 there.
MISTRAL3: dict[str, Any] = {
    "general.architecture": "mistral3",
    "general.type": "model",
    "mistral3.block_count": 26,
    "mistral3.context_length": 262144,
    "mistral3.embedding_length": 3072,
    "mistral3.feed_forward_length": 9216,
    "mistral3.attention.head_count": 32,
    "mistral3.attention.head_count_kv": 8,
    "mistral3.rope.freq_base": 1000000.0,
    "mistral3.attention.layer_norm_rms_epsilon": 9.999999747378752e-06,
    "mistral3.attention.key_length": 128,
    "mistral3.attention.value_length": 128,
    "mistral3.rope.dimension_count": 128,
    "mistral3.rope.scaling.type": "yarn",
    "mistral3.rope.scaling.factor": 16.0,
    "mistral3.rope.scaling.yarn_beta_fast": 32.0,
    "mistral3.rope.scaling.yarn_beta_slow": 1.0,
    "mistral3.rope.scaling.yarn_log_multiplier": 1.0,
    "mistral3.rope.scaling.original_context_length": 16384,
    "mistral3.attention.temperature_scale": 0.10000000149011612,
    "mistral3.vocab_size": 1000,
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.eos_token_id": 2,
}


def refused(metadata: dict[str, Any], names: tuple[str, ...] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        gguf_config(metadata, names)
    assert len(str(caught.value)) < 400
    return str(caught.value)


def test_mistral_7b() -> None:
    config = gguf_config(LLAMA, ["token_embd.weight", "blk.0.attn_q.weight"])
    assert config.architecture == "mistral"
    assert (config.num_layers, config.hidden_size, config.intermediate_size) == (32, 4096, 14336)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (32, 8, 128)
    assert (config.vocab_size, config.max_position_embeddings) == (1000, 32768)
    assert (config.rope_theta, config.rms_norm_eps) == (1e6, 1e-5)
    assert config.windows == (0,) * 32
    assert (config.yarn, config.query_scaling, config.tie_word_embeddings) == (None, None, None)
    assert config.eos_token_ids == (2,)


def test_ministral_3_is_as_its_own_config_says() -> None:
    """The same model's config.json gives the same rotations and the same query scaling."""
    own = ministral3.parse(
        {
            "model_type": "ministral3",
            "vocab_size": 1000,
            "hidden_size": 3072,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 262144,
            "eos_token_id": 2,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e6,
                "factor": 16.0,
                "original_max_position_embeddings": 16384,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.1,
            },
        }
    )
    read = gguf_config(MISTRAL3)
    assert (read.yarn, read.windows, read.eos_token_ids) == (own.yarn, own.windows, own.eos_token_ids)
    for field in ("architecture", "num_layers", "head_dim", "num_kv_heads", "hidden_size", "intermediate_size"):
        assert getattr(read, field) == getattr(own, field)
    assert (read.rope_theta, read.max_position_embeddings) == (own.rope_theta, own.max_position_embeddings)
    assert read.rms_norm_eps == pytest.approx(own.rms_norm_eps, rel=1e-6)
    assert own.query_scaling is not None
    assert read.query_scaling == QueryScaling(pytest.approx(0.1, rel=1e-6), 16384)  # type: ignore[arg-type]  # approx stands for a number


@pytest.mark.parametrize(("log_multiplier", "factor"), [(1.0, 1.0), (0.0, 0.1 * math.log(16) + 1), (None, None)])
def test_the_magnitude_of_yarn(log_multiplier: float | None, factor: float | None) -> None:
    """As llama.cpp: missing or 0, nothing takes away from what YaRN multiplies cos and sin by."""
    values = MISTRAL3 | {"mistral3.rope.scaling.yarn_log_multiplier": log_multiplier}
    yarn = gguf_config({key: value for key, value in values.items() if value is not None}).yarn
    assert yarn is not None
    _, found = yarn_frequencies(1e6, 128, yarn)
    assert found == pytest.approx(factor or 0.1 * math.log(16) + 1)


def test_mistral_small_under_the_newer_name_is_plain() -> None:
    plain = {key: value for key, value in MISTRAL3.items() if "scaling" not in key and "temperature" not in key}
    config = gguf_config(plain)
    assert (config.architecture, config.yarn, config.query_scaling) == ("mistral", None, None)


def test_what_may_be_missing() -> None:
    optional = ("head_count_kv", "freq_base", "dimension_count", "vocab_size", "eos_token_id", "general.type")
    config = gguf_config({key: value for key, value in LLAMA.items() if not key.endswith(optional)})
    assert (config.num_kv_heads, config.rope_theta, config.head_dim, config.eos_token_ids) == (32, 1e4, 128, ())


def test_heads_that_are_not_hidden_over_heads() -> None:
    nemo = LLAMA | {f"llama.{key}": 160 for key in ("attention.key_length", "attention.value_length")}
    assert gguf_config(nemo | {"llama.rope.dimension_count": 160}).head_dim == 160


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"llama.attention.sliding_window": 4096}, "windows", (4096,) * 32),
        ({"llama.attention.sliding_window": 0}, "windows", (0,) * 32),
        ({"llama.expert_count": 0, "llama.expert_used_count": 0}, "num_layers", 32),
        ({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}, "yarn", None),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1.0}, "yarn", None),
        ({"llama.vocab_size": 5, "tokenizer.ggml.tokens": TOKENS[:77]}, "vocab_size", 77),
        ({"llama.vocab_size": 5, "tokenizer.ggml.tokens": ()}, "vocab_size", 5),
        ({"tokenizer.ggml.eot_token_id": 7, "tokenizer.ggml.eom_token_id": 2}, "eos_token_ids", (2, 7)),
    ],
)
def test_what_may_be_there(changes: dict[str, Any], field: str, expected: object) -> None:
    assert getattr(gguf_config(LLAMA | changes), field) == expected


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3", "clip", "mistral4", "deepseek2", "", None, 3])
def test_another_architecture(architecture: object) -> None:
    message = refused(LLAMA | {"general.architecture": architecture})
    assert repr(architecture) in message
    assert "llama and mistral3" in message


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"general.type": "adapter"}, "'adapter', not a model"),
        ({"general.type": "mmproj"}, "'mmproj'"),
        ({"split.count": 3}, "one of 3 parts"),
        ({"general.quantization_version": 1}, "layout 1"),
        ({"llama.expert_count": 8, "llama.expert_used_count": 2}, "'expert_count' is 8"),
        ({"llama.attention.causal": False}, "'attention.causal' is False"),
        ({"llama.rope.scaling.type": "longrope"}, "'longrope'"),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, "'linear' by 4"),
        ({"llama.rope.scaling.factor": 4.0}, "'linear' by 4"),
        ({"llama.rope.scale_linear": 2.0}, "'linear' by 2"),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 0.0}, "factor must be above 0"),
        ({"llama.rope.scaling.attn_factor": 1.2}, "rope.scaling.attn_factor"),
        ({"llama.rope.dimension_count": 64}, "'rope.dimension_count' is 64"),
        ({"llama.attention.value_length": 64}, "'attention.value_length' is 64"),
        ({"llama.attention.head_count": (32, 16)}, "'llama.attention.head_count' is a list of 2"),
        ({"llama.attention.head_count": 0}, "from 1 to"),
        ({"llama.attention.head_count": True}, "from 1 to"),
        ({"llama.attention.head_count_kv": 5}, "not a multiple"),
        ({"llama.block_count": 2**31}, "from 1 to 10000"),
        ({"llama.attention.sliding_window": -1}, "sliding_window"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "rms_norm_eps must be above 0"),
        ({"llama.attention.layer_norm_rms_epsilon": "1e-5"}, "must be a number"),
        ({"llama.rope.freq_base": float("inf")}, "rope_theta must be above 0"),
        ({"llama.logit_scale": 0.5}, "unknown key 'logit_scale'"),
        ({"llama.attention.temperature_scale": 0.1}, "unknown key 'attention.temperature_scale'"),
        ({"llama.rope.scaling.type": "x" * 10_000}, "a text of 10000 characters"),
        ({"llama." + "x" * 10_000: 1}, "keys that begin with"),
        ({f"llama.x{i}": 1 for i in range(300)}, "keys that begin with"),
        ({"general.architecture": "llama" * 10_000}, "a text of 50000 characters"),
        ({"tokenizer.ggml.eos_token_id": 1000}, "one of 1000 token ids"),
        ({"tokenizer.ggml.eos_token_id": "</s>"}, "one of 1000 token ids"),
    ],
)
def test_what_is_not_done_is_refused(changes: dict[str, Any], why: str) -> None:
    assert why in refused(LLAMA | changes)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["attention.temperature_scale", "rope.scaling.yarn_log_multiplier"])
def test_factors_that_are_not_finite(key: str, value: float) -> None:
    assert "must be a finite number" in refused(MISTRAL3 | {f"mistral3.{key}": value})


@pytest.mark.parametrize(
    "key", ["block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count"]
)
def test_a_key_that_is_missing(key: str) -> None:
    values = dict(LLAMA)
    del values[f"llama.{key}"]
    assert f"'{key}' is missing" in refused(values)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("blk.0.attn_q.bias", "a bias"),
        ("rope_freqs.weight", "rotary frequencies"),
        ("rope_factors_long.weight", "rotary frequencies"),
        ("blk.3.ffn_gate_exps.weight", "experts"),
        ("blk.3.ffn_gate_inp.weight", "experts"),
    ],
)
def test_tensors_that_the_model_has_no_place_for(name: str, why: str) -> None:
    message = refused(LLAMA, ("token_embd.weight", name))
    assert repr(name) in message
    assert why in message


@pytest.mark.parametrize(
    ("metadata", "architecture"), [(LLAMA, gguf.MODEL_ARCH.LLAMA), (MISTRAL3, gguf.MODEL_ARCH.MISTRAL3)]
)
def test_names_are_those_that_the_converter_gives(metadata: dict[str, Any], architecture: gguf.MODEL_ARCH) -> None:
    config = gguf_config(metadata)
    converter = gguf.get_tensor_name_map(architecture, config.num_layers)
    expected = {
        converter.get_name(binding.source, try_suffixes=(".weight",)): (binding.target, binding.part)
        for binding in hf_names(config)
    }
    table = gguf_names(config, str(metadata["general.architecture"]))
    assert {binding.source: (binding.target, binding.part) for binding in table.bindings} == expected
    assert table.head == "output.weight"
    interleaved = {binding.part for binding in table.bindings if binding.interleaved_heads}
    assert interleaved == {"q", "k"}


def test_what_the_converter_permutes_is_put_back() -> None:
    """llama.cpp's converter writes row i of a head's first half and row i of its second half side by side."""
    from ostro.weights.loader import deinterleave

    heads, width, inputs = 3, 8, 5
    weight = torch.randn(heads * width, inputs)
    halves = weight.view(heads, 2, width // 2, inputs)
    converted = torch.stack((halves[:, 0], halves[:, 1]), dim=2).reshape(weight.shape)
    assert not torch.equal(converted, weight)
    assert torch.equal(deinterleave(converted, width), weight)


def test_names_of_another_architecture() -> None:
    with pytest.raises(ConfigError, match="'qwen3'; there is for llama and mistral3"):
        gguf_names(gguf_config(LLAMA), "qwen3")
