"""Configs: the published ones are understood, and what is not understood is refused by name."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import transformers

from ostro.core.errors import ConfigError
from ostro.models import native, registry
from ostro.models.config import DecoderConfig, QueryScaling
from ostro.models.layers.decoder import Decoder
from ostro.models.layers.rotary import Rotary
from ostro.models.pixtral.config import PixtralConfig

MISTRAL_7B = {
    "architectures": ["MistralForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.34.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}
YARN = {
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "factor": 16.0,
    "llama_4_scaling_beta": 0.1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 16384,
    "rope_theta": 1000000.0,
    "rope_type": "yarn",
    "type": "yarn",
}
VISION = {
    "attention_dropout": 0.0,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "image_size": 1540,
    "initializer_range": 0.02,
    "intermediate_size": 4096,
    "model_type": "pixtral",
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "rope_theta": 10000.0,
}
MISTRAL3 = {
    "architectures": ["Mistral3ForConditionalGeneration"],
    "image_token_index": 10,
    "model_type": "mistral3",
    "multimodal_projector_bias": False,
    "projector_hidden_act": "gelu",
    "spatial_merge_size": 2,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.52.4",
    "vision_config": VISION,
    "vision_feature_layer": -1,
}
LARGE_SHAPE = {
    "attention_dropout": 0.0,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 5120,
    "initializer_range": 0.02,
    "max_position_embeddings": 131072,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "sliding_window": None,
    "use_cache": True,
    "vocab_size": 131072,
}
LLAMA = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 30,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1e8,
    "sliding_window": None,
    "use_cache": True,
    "vocab_size": 131072,
}
VOXTRAL = {
    "architectures": ["VoxtralForConditionalGeneration"],
    "audio_config": {
        "activation_dropout": 0.0,
        "activation_function": "gelu",
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "head_dim": 64,
        "hidden_size": 1280,
        "initializer_range": 0.02,
        "intermediate_size": 5120,
        "layerdrop": 0.0,
        "max_source_positions": 1500,
        "model_type": "voxtral_encoder",
        "num_attention_heads": 20,
        "num_hidden_layers": 32,
        "num_key_value_heads": 20,
        "num_mel_bins": 128,
        "scale_embedding": False,
        "vocab_size": 51866,
    },
    "audio_token_id": 24,
    "model_type": "voxtral",
    "projector_hidden_act": "gelu",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.54.0.dev0",
    "vocab_size": 131072,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "Mistral-7B-v0.1": MISTRAL_7B,
    "Mistral-7B-v0.3": {**MISTRAL_7B, "rope_theta": 1e6, "sliding_window": None, "vocab_size": 32768},
    "Mistral-Nemo": {
        **LARGE_SHAPE,
        "intermediate_size": 14336,
        "rope_theta": 1e6,
        "tie_word_embeddings": False,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    },
    "Ministral-8B-2410": {
        **MISTRAL_7B,
        "model_type": "ministral",
        "architectures": ["MinistralForCausalLM"],
        "head_dim": 128,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "layer_types": ["full_attention", *["sliding_attention"] * 3] * 9,
        "max_position_embeddings": 131072,
        "rope_theta": 1e8,
        "sliding_window": 32768,
        "vocab_size": 131072,
    },
    "Mistral-Small-3.2": {**MISTRAL3, "text_config": {**LARGE_SHAPE, "intermediate_size": 32768, "rope_theta": 1e9}},
    "Ministral-3-8B": {
        **MISTRAL3,
        "transformers_version": "5.0.0.dev0",
        "text_config": {
            **LARGE_SHAPE,
            "model_type": "ministral3",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 34,
            "max_position_embeddings": 262144,
            "rope_parameters": YARN,
            "tie_word_embeddings": False,
        },
        "quantization_config": {
            "activation_scheme": "static",
            "modules_to_not_convert": ["model.vision_tower", "model.multi_modal_projector", "lm_head"],
            "quant_method": "fp8",
            "weight_block_size": None,
        },
    },
    "Ministral-3-3B": {
        **MISTRAL3,
        "tie_word_embeddings": True,
        "text_config": {
            **LARGE_SHAPE,
            "model_type": "ministral3",
            "hidden_size": 3072,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "max_position_embeddings": 262144,
            "rope_parameters": YARN,
            "tie_word_embeddings": True,
        },
    },
    # Taken to be Mistral Small 3.2's, as a later transformers writes it: with the dtype in every section.
    "Magistral-Small-2509": {
        **{key: value for key, value in MISTRAL3.items() if key != "torch_dtype"},
        "dtype": "bfloat16",
        "text_config": {**LARGE_SHAPE, "dtype": "bfloat16", "intermediate_size": 32768, "rope_theta": 1e9},
        "transformers_version": "4.57.1",
        "vision_config": {**VISION, "dtype": "bfloat16"},
    },
    # mistral-community/pixtral-12b: sizes that are the classes' defaults are left out.
    "Pixtral-12B": {
        "architectures": ["LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_seq_length": 1,
        "image_token_index": 10,
        "model_type": "llava",
        "projector_hidden_act": "gelu",
        "text_config": {
            "head_dim": 128,
            "hidden_size": 5120,
            "intermediate_size": 14336,
            "is_composition": True,
            "max_position_embeddings": 1024000,
            "model_type": "mistral",
            "num_hidden_layers": 40,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05,
            "rope_theta": 1e9,
            "sliding_window": None,
            "vocab_size": 131072,
        },
        "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0.dev0",
        "vision_config": {
            "head_dim": 64,
            "hidden_act": "silu",
            "image_size": 1024,
            "is_composition": True,
            "model_type": "pixtral",
            "patch_size": 16,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
        },
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    },
    "Voxtral-Mini-3B": {**VOXTRAL, "hidden_size": 3072, "text_config": LLAMA},
    # Mini's with the sizes of Mistral Small's decoder.
    "Voxtral-Small-24B": {
        **VOXTRAL,
        "hidden_size": 5120,
        "text_config": {**LLAMA, "hidden_size": 5120, "intermediate_size": 32768, "num_hidden_layers": 40},
    },
}
# Windows, head_dim, theta, context, tied, and the number of parameters where it is published.
FACTS: dict[str, tuple[tuple[int, ...], int, float, int, bool | None, int | None]] = {
    "Mistral-7B-v0.1": ((4096,) * 32, 128, 1e4, 32768, False, 7_241_732_096),
    "Mistral-7B-v0.3": ((0,) * 32, 128, 1e6, 32768, False, 7_248_023_552),
    "Mistral-Nemo": ((0,) * 40, 128, 1e6, 131072, False, 12_247_782_400),
    "Ministral-8B-2410": ((0, 32768, 32768, 32768) * 9, 128, 1e8, 131072, False, 8_019_808_256),
    "Mistral-Small-3.2": ((0,) * 40, 128, 1e9, 131072, None, 24_011_361_280),
    "Ministral-3-8B": ((0,) * 34, 128, 1e6, 262144, False, None),
    "Ministral-3-3B": ((0,) * 26, 128, 1e6, 262144, True, None),
    "Magistral-Small-2509": ((0,) * 40, 128, 1e9, 131072, None, 24_011_361_280),
    "Pixtral-12B": ((0,) * 40, 128, 1e9, 1024000, None, 12_682_739_712),
    "Voxtral-Mini-3B": ((0,) * 30, 128, 1e8, 131072, None, 4_676_271_104),
    "Voxtral-Small-24B": ((0,) * 40, 128, 1e8, 131072, None, 24_261_800_960),
}


def parse(values: dict[str, Any]) -> DecoderConfig:
    return registry.find(values["model_type"]).parse(values)


def text_of(values: dict[str, Any]) -> dict[str, Any]:
    return values.get("text_config", values)


def reference_config(values: dict[str, Any]) -> Any:
    return transformers.AutoConfig.for_model(**copy.deepcopy(text_of(values)))


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_published_config(name: str) -> None:
    before = copy.deepcopy(PUBLISHED[name])
    config = parse(PUBLISHED[name])
    assert PUBLISHED[name] == before
    windows, head_dim, theta, context, tied, parameters = FACTS[name]
    assert config.windows == windows
    assert (config.head_dim, config.rope_theta, config.max_position_embeddings) == (head_dim, theta, context)
    assert config.tie_word_embeddings is tied
    assert config.dtype == "bfloat16"
    assert config.architecture == PUBLISHED[name]["model_type"]
    assert config.rms_norm_eps == 1e-5
    if parameters is not None:
        with torch.device("meta"):
            model = Decoder(config if tied is not None else parse({**PUBLISHED[name], "tie_word_embeddings": False}))
        assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_published_config_reads_as_the_reference_reads_it(name: str) -> None:
    ours, theirs = parse(PUBLISHED[name]), reference_config(PUBLISHED[name])
    kinds = getattr(theirs, "layer_types", None) or ["sliding_attention"] * theirs.num_hidden_layers
    expected = tuple((theirs.sliding_window or 0) if kind == "sliding_attention" else 0 for kind in kinds)
    assert ours.windows == expected
    assert ours.head_dim == (theirs.head_dim or theirs.hidden_size // theirs.num_attention_heads)
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    for field, attribute in (
        ("vocab_size", "vocab_size"),
        ("hidden_size", "hidden_size"),
        ("intermediate_size", "intermediate_size"),
        ("num_heads", "num_attention_heads"),
        ("num_kv_heads", "num_key_value_heads"),
        ("rms_norm_eps", "rms_norm_eps"),
        ("max_position_embeddings", "max_position_embeddings"),
    ):
        assert getattr(ours, field) == getattr(theirs, attribute), field


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_rotary_frequencies_are_the_references(name: str) -> None:
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
    from transformers.models.ministral.modeling_ministral import MinistralRotaryEmbedding
    from transformers.models.ministral3.modeling_ministral3 import Ministral3RotaryEmbedding
    from transformers.models.mistral.modeling_mistral import MistralRotaryEmbedding

    classes = {
        "llama": LlamaRotaryEmbedding,
        "mistral": MistralRotaryEmbedding,
        "ministral": MinistralRotaryEmbedding,
        "ministral3": Ministral3RotaryEmbedding,
    }
    theirs = classes[text_of(PUBLISHED[name])["model_type"]](reference_config(PUBLISHED[name]))
    positions = torch.tensor([0, 1, 100, 4095, 16384, 32767])
    cos, sin = theirs(torch.zeros(1), positions[None])
    ours = Rotary(parse(PUBLISHED[name]))(positions)
    half = ours.cos.shape[-1]
    torch.testing.assert_close(ours.cos, cos[0, :, :half], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.sin, sin[0, :, :half], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["Ministral-3-8B", "Ministral-3-3B"])
def test_yarn_and_query_scaling_of_ministral_3(name: str) -> None:
    config = parse(PUBLISHED[name])
    assert config.yarn is not None
    assert (config.yarn.factor, config.yarn.original_max_position_embeddings) == (16.0, 16384)
    assert config.query_scaling == QueryScaling(0.1, 16384)
    scale = Rotary(config)(torch.tensor([0, 16383, 16384, 40_000, 262_143])).q_scale
    assert scale is not None
    expected = [1.0, 1.0, 1 + 0.1 * math.log(2), 1 + 0.1 * math.log(3), 1 + 0.1 * math.log(16)]
    assert scale.tolist() == pytest.approx(expected, abs=1e-6)


def test_models_without_query_scaling_have_none() -> None:
    for name in ("Mistral-7B-v0.1", "Mistral-Small-3.2"):
        assert Rotary(parse(PUBLISHED[name]))(torch.tensor([50_000])).q_scale is None


def test_what_transformers_writes_today_is_read() -> None:
    """Default configs of every class, through to_dict: all its bookkeeping keys are known to be harmless."""
    for kind in ("mistral", "ministral", "ministral3"):
        values = transformers.AutoConfig.for_model(kind).to_dict()
        assert parse(values).num_layers == values["num_hidden_layers"]
    values = transformers.Mistral3Config().to_dict()
    assert parse(values).hidden_size == 5120


# What a missing key means is the reference's default, not "off".


def test_a_missing_sliding_window_is_the_references_default() -> None:
    for kind in ("mistral", "ministral"):
        values = {**PUBLISHED["Mistral-7B-v0.3"], "model_type": kind}
        assert parse(values).windows == (0,) * 32
        del values["sliding_window"]
        assert reference_config(values).sliding_window == 4096
        assert parse(values).windows == (4096,) * 32
    values = copy.deepcopy(PUBLISHED["Ministral-3-8B"])
    del values["text_config"]["sliding_window"]
    assert parse(values).windows == (0,) * 34


@pytest.mark.parametrize("key", ["rms_norm_eps", "num_key_value_heads", "head_dim", "rope_theta"])
@pytest.mark.parametrize("name", ["Mistral-7B-v0.1", "Ministral-8B-2410", "Ministral-3-8B"])
def test_other_missing_keys(name: str, key: str) -> None:
    values = {**text_of(PUBLISHED[name])}
    values.pop(key, None)
    theirs, ours = reference_config(values), parse(values)
    assert ours.rms_norm_eps == theirs.rms_norm_eps
    assert ours.num_kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == (theirs.head_dim or theirs.hidden_size // theirs.num_attention_heads)
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]


def test_older_rope_scaling_is_the_same_as_rope_parameters() -> None:
    values = {**PUBLISHED["Mistral-7B-v0.3"], "rope_theta": 5e5}
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}
    older = parse({**values, "rope_scaling": scaling})
    newer = parse({**values, "rope_parameters": {**scaling, "rope_theta": 5e5}})
    assert older == newer
    assert older.rope_theta == 5e5
    assert older.yarn is not None
    assert (older.yarn.factor, older.query_scaling) == (4.0, None)


@pytest.mark.parametrize("eos", [None, 2, [2, 5]])
def test_end_of_sequence_ids(eos: Any) -> None:
    expected = () if eos is None else tuple([eos] if isinstance(eos, int) else eos)
    assert parse({**MISTRAL_7B, "eos_token_id": eos}).eos_token_ids == expected


# Refusals


def changed(name: str, change: dict[str, Any]) -> dict[str, Any]:
    """A published config with its text part changed."""
    values = copy.deepcopy(PUBLISHED[name])
    text_of(values).update(change)
    return values


HARMLESS = {
    "pretraining_tp": 1,
    "id2label": {"0": "a"},
    "_name_or_path": "x",
    "use_cache": False,
    "attention_dropout": 0.1,
    "quantization_config": {"quant_method": "fp8"},
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_harmless_keys_change_nothing(name: str) -> None:
    assert parse(changed(name, HARMLESS)) == parse(PUBLISHED[name])


@pytest.mark.parametrize("name", sorted(PUBLISHED))
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_local_experts", 8),
        ("attention_multiplier", 0.5),
        ("partial_rotary_factor", 0.5),
        ("attn_logit_softcapping", 50.0),
        ("kv_lora_rank", 512),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("hidden_act", "gelu"),
        ("rope_scaling", {"rope_type": "llama3", "factor": 8.0}),
    ],
)
def test_a_key_that_matters_is_refused_by_name(name: str, key: str, value: Any) -> None:
    values = changed(name, {key: value})
    if key == "rope_scaling":
        text_of(values).pop("rope_parameters", None)
    with pytest.raises(ConfigError) as caught:
        parse(values)
    named = "rope_type" if key == "rope_scaling" else key
    assert caught.value.param == named
    assert key in str(caught.value) or "llama3" in str(caught.value)


@pytest.mark.parametrize("kind", ["linear", "dynamic", "longrope", "llama3", "su", 3])
def test_other_rope_types_are_refused(kind: Any) -> None:
    for key in ("rope_type", "type"):
        with pytest.raises(ConfigError, match=r"'default' and 'yarn'") as caught:
            parse({**MISTRAL_7B, "rope_scaling": {key: kind, "factor": 2.0}})
        assert repr(kind) in str(caught.value)


def test_an_unknown_key_of_the_outer_config_is_refused() -> None:
    with pytest.raises(ConfigError, match="audio_config"):
        parse({**PUBLISHED["Mistral-Small-3.2"], "audio_config": {}})


def test_features_are_those_of_all_patches() -> None:
    for name in ("Mistral-Small-3.2", "Pixtral-12B"):
        values = {**PUBLISHED[name], "vision_feature_select_strategy": "full"}
        assert parse(values) == parse(PUBLISHED[name])
        with pytest.raises(ConfigError, match="vision_feature_select_strategy"):
            parse({**values, "vision_feature_select_strategy": "default"})


@pytest.mark.parametrize("key", ["hidden_size", "vocab_size"])
def test_an_echo_of_the_decoder_must_be_one(key: str) -> None:
    values = dict(PUBLISHED["Voxtral-Small-24B"])
    expected = parse(values)
    assert parse({**values, key: None}) == expected
    for wrong in (values[key] + 1, [values[key]], "5120"):
        with pytest.raises(ConfigError, match=f"{key} is .* text_config has") as caught:
            parse({**values, key: wrong})
        assert caught.value.param == key


def test_an_unknown_key_of_an_encoder_is_refused() -> None:
    for name, section in (("Pixtral-12B", "vision_config"), ("Voxtral-Small-24B", "audio_config")):
        values = copy.deepcopy(PUBLISHED[name])
        values[section]["sliding_window_pattern"] = 2
        with pytest.raises(ConfigError, match=f"{section}.*sliding_window_pattern"):
            parse(values)


def test_an_unknown_rope_key_is_refused() -> None:
    with pytest.raises(ConfigError, match="short_factor"):
        parse({**MISTRAL_7B, "rope_scaling": {**YARN, "short_factor": [1.0]}})


@pytest.mark.parametrize("kind", ["llama", "mixtral", "mistral4", "", None, 7, ["mistral"]])
def test_another_model_type_is_refused_with_those_supported(kind: Any) -> None:
    with pytest.raises(ConfigError, match=r"ministral, ministral3, mistral, mistral3") as caught:
        registry.find(kind)
    assert caught.value.param == "model_type"
    if kind is not None:
        with pytest.raises(ConfigError, match="model_type"):
            parse(changed("Mistral-Small-3.2", {"model_type": kind}))


def test_a_text_config_must_be_there() -> None:
    for text in (None, [], "mistral"):
        with pytest.raises(ConfigError, match="text_config"):
            parse({**MISTRAL3, "text_config": text})


REQUIRED = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
]


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named(key: str) -> None:
    values = dict(MISTRAL_7B)
    del values[key]
    with pytest.raises(ConfigError, match=f"'{key}' is missing") as caught:
        parse(values)
    assert caught.value.param == key


def test_layer_types_must_fit() -> None:
    for kinds in (["sliding_attention"] * 31, ["chunked_attention"] * 36, [None] * 36, 3, "full_attention"):
        with pytest.raises(ConfigError, match=r"layer.types?|windows"):
            parse({**PUBLISHED["Ministral-8B-2410"], "layer_types": kinds})
    with pytest.raises(ConfigError, match="sliding_window"):
        parse({**PUBLISHED["Ministral-8B-2410"], "sliding_window": None})
    with pytest.raises(ConfigError, match="layer_types"):
        parse({**MISTRAL_7B, "layer_types": ["full_attention"] * 32})


WRONG: list[Any] = ["7", -1, 0, 2.5, True, [], {}, [4096], {"a": 1}, float("nan"), float("inf"), 2**80]
EVERY_KEY = sorted(
    {*MISTRAL_7B, *YARN, "head_dim", "layer_types", "rope_parameters", "rope_scaling", "attention_bias", "text_config"}
)


@pytest.mark.parametrize("key", EVERY_KEY)
@pytest.mark.parametrize("name", ["Mistral-7B-v0.1", "Ministral-8B-2410", "Ministral-3-8B"])
def test_values_of_the_wrong_kind_are_errors_of_ours(name: str, key: str) -> None:
    """Nothing but ConfigError, whatever the JSON holds; and what passes is a config of sane values."""
    for wrong in WRONG:
        values = copy.deepcopy(PUBLISHED[name])
        if key in YARN and "rope_parameters" in text_of(values):
            text_of(values)["rope_parameters"][key] = wrong
        elif key == "text_config":
            values[key] = wrong
        else:
            text_of(values)[key] = wrong
        try:
            config = parse(values)
        except ConfigError:
            continue
        assert all(isinstance(window, int) and window >= 0 for window in config.windows)
        assert isinstance(config.rope_theta, float)
        assert math.isfinite(config.rope_theta)
        assert config.head_dim > 0
        assert all(isinstance(token, int) for token in config.eos_token_ids)


# params.json


PARAMS = {
    "dim": 4096,
    "n_layers": 32,
    "head_dim": 128,
    "hidden_dim": 14336,
    "n_heads": 32,
    "n_kv_heads": 8,
    "norm_eps": 1e-05,
    "vocab_size": 32000,
}
MINISTRAL_3_PARAMS = {
    **PARAMS,
    "n_layers": 34,
    "vocab_size": 131072,
    "rope_theta": 1e6,
    "max_position_embeddings": 262144,
    "tied_embeddings": False,
    "llama_4_scaling": {"original_max_position_embeddings": 16384, "beta": 0.1},
    "yarn": {
        "original_max_position_embeddings": 16384,
        "factor": 16,
        "apply_scale": False,
        "beta": 32,
        "alpha": 1,
    },
    "vision_encoder": {
        "image_token_id": 10,
        "image_break_token_id": 12,
        "image_end_token_id": 13,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "mm_projector_id": "patch_merge",
        "spatial_merge_size": 2,
        "hidden_size": 1024,
        "num_channels": 3,
        "image_size": 1540,
        "max_image_size": 1540,
        "patch_size": 14,
        "rope_theta": 10000.0,
        "add_pre_mm_projector_layer_norm": True,
        "adapter_bias": False,
    },
}
# Of Pixtral Large, the first to name its placeholders and to have no biases in its projector.
PIXTRAL_LARGE_PARAMS = {
    "dim": 12288,
    "n_layers": 88,
    "head_dim": 128,
    "hidden_dim": 28672,
    "n_heads": 96,
    "n_kv_heads": 8,
    "rope_theta": 1e9,
    "norm_eps": 1e-05,
    "vocab_size": 32768,
    "vision_encoder": {
        "hidden_size": 1408,
        "num_channels": 3,
        "image_size": 1024,
        "patch_size": 16,
        "rope_theta": 10000.0,
        "intermediate_size": 6144,
        "num_hidden_layers": 40,
        "num_attention_heads": 16,
        "image_token_id": 10,
        "image_break_token_id": 14,
        "image_end_token_id": 15,
        "adapter_bias": False,
    },
}


def test_params_of_pixtral_large() -> None:
    config = native.parse(PIXTRAL_LARGE_PARAMS)
    assert config.windows == (0,) * 88
    assert (config.head_dim, config.rope_theta, config.num_kv_heads) == (128, 1e9, 8)
    assert config.encoders == (
        PixtralConfig(
            hidden_size=1408,
            intermediate_size=6144,
            num_layers=40,
            num_heads=16,
            patch_size=16,
            image_size=1024,
            merge=1,
            projector_bias=False,
            projector_norm=False,
        ),
    )


def test_pixtral_is_the_same_in_both_formats() -> None:
    (hf,) = parse(PUBLISHED["Pixtral-12B"]).encoders
    vision = {
        **PIXTRAL_LARGE_PARAMS["vision_encoder"],  # type: ignore[dict-item]  # nested JSON
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
    }
    del vision["adapter_bias"]
    assert native.parse({**PIXTRAL_LARGE_PARAMS, "vision_encoder": vision}).encoders == (hf,)


def test_params_of_the_first_model() -> None:
    config = native.parse({**PARAMS, "sliding_window": 4096})
    assert config.windows == (4096,) * 32
    assert (config.rope_theta, config.head_dim, config.tie_word_embeddings) == (1e4, 128, None)
    assert native.parse(PARAMS).windows == (0,) * 32
    assert native.parse({**PARAMS, "sliding_window": None}).windows == (0,) * 32


def test_params_of_ministral_3_are_the_hf_config() -> None:
    ours, hf = native.parse(MINISTRAL_3_PARAMS), parse(PUBLISHED["Ministral-3-8B"])
    assert ours.encoders == hf.encoders
    assert ours.query_scaling == hf.query_scaling
    positions = torch.tensor([5, 20_000])
    for mine, theirs in zip(Rotary(ours)(positions), Rotary(hf)(positions), strict=True):
        torch.testing.assert_close(mine, theirs)
    for field in ("windows", "head_dim", "max_position_embeddings", "hidden_size", "num_kv_heads"):
        assert getattr(ours, field) == getattr(hf, field)


def test_a_list_of_windows() -> None:
    each = [None, 16, 32, 16]
    assert native.parse({**PARAMS, "n_layers": 4, "sliding_window": each}).windows == (0, 16, 32, 16)
    # A pattern that repeats.
    pattern = native.parse({**PARAMS, "n_layers": 36, "sliding_window": [None, 32768, 32768, 32768]})
    assert pattern.windows == (0, 32768, 32768, 32768) * 9
    for bad in ([], [16] * 5, [16, "16"], [16, -1], [16, 0], [16, True], "16", -4, 0, {"a": 1}):
        with pytest.raises(ConfigError, match="sliding_window"):
            native.parse({**PARAMS, "n_layers": 4, "sliding_window": bad})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("moe", {"num_experts": 8}),
        ("kv_lora_rank", 512),
        ("q_lora_rank", 1536),
        ("use_biases", True),
        ("causal", False),
        ("attn_sink", 4),
    ],
)
def test_params_that_matter_are_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key) as caught:
        native.parse({**PARAMS, key: value})
    assert caught.value.param == key


@pytest.mark.parametrize("key", sorted({*MINISTRAL_3_PARAMS, "sliding_window"}))
def test_params_of_the_wrong_kind_are_errors_of_ours(key: str) -> None:
    for wrong in WRONG:
        try:
            config = native.parse({**MINISTRAL_3_PARAMS, key: wrong})
        except ConfigError:
            continue
        assert all(isinstance(window, int) and window >= 0 for window in config.windows)
        assert math.isfinite(config.rope_theta)


@pytest.mark.parametrize("section", ["yarn", "llama_4_scaling"])
def test_sections_of_params_of_the_wrong_kind(section: str) -> None:
    for key in MINISTRAL_3_PARAMS[section]:  # type: ignore[attr-defined]  # nested JSON
        for wrong in ("7", -1, 0, [], {}, None, float("nan")):
            values = copy.deepcopy(MINISTRAL_3_PARAMS)
            values[section][key] = wrong  # type: ignore[index]  # nested JSON
            try:
                config = native.parse(values)
            except ConfigError:
                continue
            assert config.query_scaling is None or config.query_scaling.original_max_position_embeddings > 0
