"""Voxtral: what it hears against the reference implementation, in every layout; and what its configs may say.

Its decoder goes through the tests of all architectures in test_parity.py.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.whisper.modeling_whisper import sinusoids

import tiny_checkpoints
from ostro.core.errors import CheckpointError, ConfigError, InvalidRequestError
from ostro.core.media import MediaInput, Prompt
from ostro.core.options import EngineOptions
from ostro.core.request import EngineRequest, TokensEvent
from ostro.core.sampling import SamplingParams
from ostro.engine.engine import Engine
from ostro.media.audio import AudioSettings, read_audio
from ostro.models import native, registry
from ostro.models.layers import encoder as encoder_layer
from ostro.models.layers.context import DenseContext
from ostro.models.layers.encoder import Encoder, finished
from ostro.models.voxtral import model as voxtral
from ostro.models.voxtral.config import VoxtralConfig
from ostro.weights.loader import load_model
from tiny_checkpoints import AUDIO, Tiny

TOLERANCE = 1e-4
FRAMES, BANDS, TOKENS = 40, 16, 5
AUDIO_TOKEN = 24

VOXTRAL_MINI: dict[str, Any] = {
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
    "hidden_size": 3072,
    "model_type": "voxtral",
    "projector_hidden_act": "gelu",
    "text_config": {
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
        "rope_theta": 100000000.0,
        "sliding_window": None,
        "use_cache": True,
        "vocab_size": 131072,
    },
    "torch_dtype": "bfloat16",
    "transformers_version": "4.54.0.dev0",
}
ENCODER_ARGS: dict[str, Any] = {
    "audio_encoding_args": {"sampling_rate": 16000, "num_mel_bins": 128, "hop_length": 160, "window_size": 400},
    "dim": 1280,
    "n_layers": 32,
    "head_dim": 64,
    "hidden_dim": 5120,
    "n_heads": 20,
    "vocab_size": 51866,
    "max_source_positions": 1500,
}
NATIVE_MINI: dict[str, Any] = {
    "dim": 3072,
    "n_layers": 30,
    "head_dim": 128,
    "hidden_dim": 8192,
    "n_heads": 32,
    "n_kv_heads": 8,
    "norm_eps": 1e-05,
    "vocab_size": 131072,
    "rope_theta": 100000000.0,
    "max_seq_len": 32768,
    "multimodal": {
        "whisper_model_args": {"encoder_args": ENCODER_ARGS, "downsample_args": {"downsample_factor": 4}},
    },
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    tiny = tiny_checkpoints.make("voxtral", tmp_path_factory.mktemp("tiny") / "voxtral")
    # Whisper's positions, which the native layout leaves out.
    positions = tiny.reference.model.audio_tower.embed_positions.weight
    with torch.no_grad():
        positions.copy_(sinusoids(*positions.shape))
    tiny.reference.save_pretrained(tiny.folder)
    return tiny


def sound(chunks: int, seed: int) -> torch.Tensor:
    return torch.randn(chunks, BANDS, FRAMES, generator=torch.Generator().manual_seed(seed))


def encoder_of(folder: Path, **options: Any) -> Encoder:
    encoder = load_model(folder, **options).encoder("audio")
    assert encoder is not None
    return encoder


def heard(encoder: Encoder, *sounds: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        return finished(encoder.encode(sounds))


def reference_features(tiny: Tiny, mel: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = tiny.reference.get_audio_features(mel).pooler_output
    return out


def test_features_match_the_reference(tiny: Tiny) -> None:
    sounds = [sound(1, 0), sound(3, 1), sound(2, 2)]
    outputs = heard(encoder_of(tiny.folder), *sounds)
    for mel, ours in zip(sounds, outputs, strict=True):
        assert ours.shape == (len(mel) * TOKENS, 48)
        torch.testing.assert_close(ours, reference_features(tiny, mel), atol=TOLERANCE, rtol=0)


def test_logits_of_a_prompt_that_is_heard_match_the_reference(tiny: Tiny) -> None:
    mel = sound(2, 3)
    ids = torch.tensor([1, 5, *[AUDIO_TOKEN] * (2 * TOKENS), 7, 9, 33])
    with torch.no_grad():
        expected = tiny.reference(input_ids=ids[None], input_features=mel).logits[0]
    model = load_model(tiny.folder)
    encoder = model.encoder("audio")
    assert encoder is not None
    assert encoder.placeholder == AUDIO_TOKEN
    with torch.inference_mode():
        x_TD = model.embed(ids, model.dtype)
        x_TD[ids == AUDIO_TOKEN] = finished(encoder.encode([mel]))[0]
        logits = model.logits(model(x_TD, torch.arange(len(ids)), DenseContext()))
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)


def test_cuts_between_pieces_change_nothing(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk of the model that is tested has fewer rows than a piece; those of real ones have more."""
    mel = sound(2, 8)
    encoder = encoder_of(tiny.folder)
    whole = pieces(encoder, mel)
    monkeypatch.setattr(encoder_layer, "_piece_rows", 7)
    assert pieces(encoder, mel) > 4 * whole
    torch.testing.assert_close(heard(encoder, mel)[0], reference_features(tiny, mel), atol=TOLERANCE, rtol=0)


def test_sounds_that_wait_together_are_encoded_together(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no more of them at a time than there is room for."""
    encoder = encoder_of(tiny.folder)
    one, *_ = sounds = [sound(1, seed) for seed in range(3)]
    alone = pieces(encoder, one)
    assert pieces(encoder, *sounds) == alone
    monkeypatch.setattr(voxtral, "BATCH_ROWS", 2 * FRAMES // 2)
    assert pieces(encoder, *sounds) == 2 * alone
    for mel, together in zip(sounds, heard(encoder, *sounds), strict=True):
        torch.testing.assert_close(together, reference_features(tiny, mel), atol=TOLERANCE, rtol=0)


def pieces(encoder: Encoder, *sounds: torch.Tensor) -> int:
    """Of work that encoding them takes."""
    with torch.inference_mode():
        return sum(1 for _ in encoder.encode(sounds))


def spoken(seconds: float, seed: int) -> MediaInput:
    """A sound as a client sends it, as the model's settings have it."""
    samples = np.random.default_rng(seed).normal(0, 0.1, int(seconds * 16_000))
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="WAV")
    settings = AudioSettings(mel_bins=BANDS, chunk_seconds=FRAMES / 100)
    return read_audio(file.getvalue(), settings, declared="audio/wav")


@pytest.mark.parametrize("batch", [1024, 16])
def test_greedy_answers_to_sounds_match_the_reference(tiny: Tiny, batch: int) -> None:
    engine = Engine.load(
        EngineOptions(model=str(tiny.folder), block_size=4, kv_memory=4_000_000, max_batch_tokens=batch, max_num_seqs=8)
    )
    prompts = []
    for index, sounds in enumerate(([spoken(0.3, 0)], [spoken(1.0, 1), spoken(0.5, 2)], [spoken(2.1, 3)])):
        ids = [1, 30 + index]
        for media in sounds:
            ids += [*[AUDIO_TOKEN] * media.tokens, 40, 41, 42]
        prompts.append(Prompt.placing(ids, sounds, {"audio": AUDIO_TOKEN}))
    for index, prompt in enumerate(prompts):
        params = SamplingParams(temperature=0, max_tokens=8, logprobs=1)
        engine.add(
            EngineRequest(
                request_id=str(index),
                prompt_token_ids=prompt.token_ids,
                params=params,
                seed=0,
                spans=prompt.spans,
                media=prompt.media,
            )
        )
    events: list[list[TokensEvent]] = [[] for _ in prompts]
    while engine.has_work:
        for event in engine.step():
            events[int(event.request_id)].append(event)
    for prompt, answer in zip(prompts, events, strict=True):
        tokens = [token for event in answer for token in event.token_ids]
        ids = torch.tensor([*prompt.token_ids, *tokens])
        at = [at for span in prompt.spans for at in range(span.start, span.stop)]
        with torch.no_grad():
            # Embeddings, because the answer may have the placeholder's token too, which the reference would fill.
            x_TD = tiny.reference.get_input_embeddings()(ids)
            x_TD[at] = torch.cat([reference_features(tiny, torch.tensor(one.array())) for one in prompt.media])
            logits = tiny.reference(inputs_embeds=x_TD[None]).logits[0, len(prompt.token_ids) - 1 : -1]
        assert tokens == logits.argmax(-1).tolist()
        expected = logits.log_softmax(-1)[torch.arange(len(tokens)), tokens]
        got = torch.tensor([item.logprob for event in answer for item in event.logprobs or []])
        torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=0)


def test_company_changes_nothing_and_others_can_be_served_in_between(tiny: Tiny) -> None:
    encoder = encoder_of(tiny.folder)
    sounds = [sound(2, 4), sound(1, 5)]
    for mel, together in zip(sounds, heard(encoder, *sounds), strict=True):
        assert torch.equal(together, heard(encoder, mel)[0])
    with torch.inference_mode():
        assert sum(1 for _ in encoder.encode(sounds)) >= 2 + 3 * AUDIO["num_hidden_layers"]


def test_features_in_bfloat16_are_near(tiny: Tiny) -> None:
    mel = sound(2, 6)
    ours = heard(encoder_of(tiny.folder, dtype=torch.bfloat16), mel)[0]
    assert ours.dtype == torch.bfloat16
    similarity = torch.nn.functional.cosine_similarity(ours.float(), reference_features(tiny, mel), dim=1)
    assert similarity.min() > 0.99


def test_a_file_named_as_the_modules_are_is_the_same_model(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny.folder / "config.json").read_bytes())
    save_file(tiny.reference.state_dict(), tmp_path / "model.safetensors")
    assert "model.audio_tower.conv1.weight" in load_file(tmp_path / "model.safetensors")
    expected, got = load_model(tiny.folder).state_dict(), load_model(tmp_path).state_dict()
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        assert torch.equal(value, got[name]), name


NATIVE_NAMES = (
    (r"language_model\.lm_head", "output"),
    (r"language_model\.model\.norm", "norm"),
    (r"language_model\.model\.embed_tokens", "mm_whisper_embeddings.tok_embeddings"),
    (r"language_model\.model\.layers\.(\d+)\.(.*)", r"layers.\1.\2"),
    (r"audio_tower\.conv1", "mm_whisper_embeddings.whisper_encoder.conv_layers.0"),
    (r"audio_tower\.conv2", "mm_whisper_embeddings.whisper_encoder.conv_layers.1"),
    (r"audio_tower\.layer_norm", "mm_whisper_embeddings.whisper_encoder.transformer.norm"),
    (r"audio_tower\.layers\.(\d+)\.(.*)", r"mm_whisper_embeddings.whisper_encoder.transformer.layers.\1.\2"),
    (r"multi_modal_projector\.linear_1", "mm_whisper_embeddings.audio_language_projection.0"),
    (r"multi_modal_projector\.linear_2", "mm_whisper_embeddings.audio_language_projection.2"),
)
NATIVE_PARTS = {
    **tiny_checkpoints.NATIVE_NAMES,
    "self_attn.out_proj": "attention.wo",
    "self_attn_layer_norm": "attention_norm",
    "final_layer_norm": "ffn_norm",
    "fc1": "feed_forward.w1",
    "fc2": "feed_forward.w2",
}


def write_native(tiny: Tiny, folder: Path, **encoder_args: Any) -> None:
    """The checkpoint as Mistral publishes it: one file, no table of positions."""
    tensors = {}
    for name, value in load_file(tiny.folder / "model.safetensors").items():
        if name == "audio_tower.embed_positions.weight":
            continue
        stem, _, kind = name.rpartition(".")
        new = next(
            re.sub(pattern, target, stem) for pattern, target in NATIVE_NAMES if re.fullmatch(pattern, stem) is not None
        )
        for theirs, ours in NATIVE_PARTS.items():
            new = new.removesuffix(theirs) + ours if new.endswith(f".{theirs}") else new
        if stem.startswith("language_model") and stem.endswith(("q_proj", "k_proj")):
            value = tiny_checkpoints.interleave(value, 16)
        tensors[f"{new}.{kind}"] = value.contiguous()
    save_file(tensors, folder / "consolidated.safetensors")
    text = tiny.reference.config.text_config
    params = {
        "dim": text.hidden_size,
        "n_layers": text.num_hidden_layers,
        "head_dim": text.head_dim,
        "hidden_dim": text.intermediate_size,
        "n_heads": text.num_attention_heads,
        "n_kv_heads": text.num_key_value_heads,
        "norm_eps": text.rms_norm_eps,
        "vocab_size": text.vocab_size,
        "rope_theta": text.rope_parameters["rope_theta"],
        "max_seq_len": text.max_position_embeddings,
        "multimodal": {
            "whisper_model_args": {
                "encoder_args": {
                    "audio_encoding_args": {"num_mel_bins": BANDS},
                    "dim": AUDIO["hidden_size"],
                    "n_layers": AUDIO["num_hidden_layers"],
                    "hidden_dim": AUDIO["intermediate_size"],
                    "n_heads": AUDIO["num_attention_heads"],
                    "max_source_positions": AUDIO["max_source_positions"],
                    **encoder_args,
                },
                "downsample_args": {"downsample_factor": 4},
            }
        },
    }
    (folder / "params.json").write_text(json.dumps(params))


def test_a_native_folder_is_the_same_model(tiny: Tiny, tmp_path: Path) -> None:
    write_native(tiny, tmp_path)
    expected, got = load_model(tiny.folder).state_dict(), load_model(tmp_path).state_dict()
    assert expected.keys() - got.keys() == {"encoders.audio.positions.weight"}
    for name, value in got.items():
        assert torch.equal(value, expected[name]), name
    mel = sound(2, 7)
    features = heard(encoder_of(tmp_path), mel)[0]
    torch.testing.assert_close(features, reference_features(tiny, mel), atol=TOLERANCE, rtol=0)


def test_another_number_of_positions_is_found(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((tiny.folder / "model.safetensors").read_bytes())
    config = json.loads((tiny.folder / "config.json").read_text())
    config["audio_config"]["max_source_positions"] = 24
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="embed_positions"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((1, BANDS, FRAMES), (1, TOKENS + 1)),
        ((1, BANDS, FRAMES), (TOKENS, 1)),
        ((2, BANDS, FRAMES), (1, TOKENS)),
        ((1, BANDS, FRAMES - 8), (1, TOKENS - 1)),
        ((1, BANDS + 1, FRAMES), (1, TOKENS)),
        ((BANDS, FRAMES), (1, TOKENS)),
        ((0, BANDS, FRAMES), (1, 0)),
    ],
)
def test_features_of_another_shape_are_refused(tiny: Tiny, shape: tuple[int, ...], grid: tuple[int, int]) -> None:
    encoder = encoder_of(tiny.folder)
    encoder.check(MediaInput.of("audio", np.zeros((3, BANDS, FRAMES), np.float32), (1, 3 * TOKENS)))
    with pytest.raises(InvalidRequestError, match="chunks of 16 mel bands and 40 frames, 5 tokens each"):
        encoder.check(MediaInput.of("audio", np.zeros(shape, np.float32), grid))


def test_the_cost_of_a_sound_is_its_rows(tiny: Tiny) -> None:
    media = MediaInput.of("audio", np.zeros((3, BANDS, FRAMES), np.float32), (1, 3 * TOKENS))
    assert encoder_of(tiny.folder).cost(media) == 3 * AUDIO["max_source_positions"]


def test_published_configs_are_understood() -> None:
    ours = registry.find("voxtral").parse(VOXTRAL_MINI)
    theirs = native.parse(NATIVE_MINI)
    expected = VoxtralConfig(hidden_size=1280, intermediate_size=5120, num_layers=32, num_heads=20)
    assert ours.encoders == (expected,)
    assert ours.rope_theta == theirs.rope_theta == 1e8
    assert ours.windows == theirs.windows == (0,) * 30
    assert (ours.architecture, ours.dtype) == ("voxtral", "bfloat16")
    (heard,) = theirs.encoders
    assert isinstance(heard, VoxtralConfig)
    assert not heard.stored_positions
    assert (heard.positions, heard.merge, heard.mel_bins, heard.placeholder) == (1500, 4, 128, 24)


def test_what_a_config_leaves_out_is_what_the_reference_takes() -> None:
    left_out = ("num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "rope_scaling")
    text = {key: value for key, value in VOXTRAL_MINI["text_config"].items() if key not in left_out}
    ours = registry.find("voxtral").parse({**VOXTRAL_MINI, "text_config": text, "audio_config": {}})
    theirs: Any = transformers.VoxtralConfig(text_config=dict(text)).text_config
    assert (ours.num_heads, ours.num_kv_heads) == (theirs.num_attention_heads, theirs.num_key_value_heads)
    assert (ours.head_dim, ours.rms_norm_eps) == (theirs.head_dim, theirs.rms_norm_eps)
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert ours.encoders == registry.find("voxtral").parse(VOXTRAL_MINI).encoders


@pytest.mark.parametrize(
    ("section", "changes", "word"),
    [
        ("text_config", {"attention_bias": True}, "attention_bias"),
        ("text_config", {"mlp_bias": True}, "mlp_bias"),
        ("text_config", {"sliding_window": 4096}, "sliding_window"),
        ("text_config", {"model_type": "mistral"}, "'llama' is supported"),
        ("text_config", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "llama3"),
        ("text_config", {"something_new": 1}, "something_new"),
        ("audio_config", {"model_type": "whisper"}, "'voxtral_encoder' is supported"),
        ("audio_config", {"head_dim": 32}, "20 heads of 32"),
        ("audio_config", {"num_key_value_heads": 4}, "4 of keys"),
        ("audio_config", {"num_attention_heads": 7, "head_dim": None, "num_key_value_heads": 7}, "7 heads"),
        ("audio_config", {"intermediate_size": 5000}, "no multiple"),
        ("audio_config", {"max_source_positions": 1501}, "come out even"),
        ("audio_config", {"scale_embedding": True}, "scale_embedding"),
        ("audio_config", {"activation_function": "relu"}, "relu"),
        ("audio_config", {"something_new": 1}, "something_new"),
        (None, {"audio_config": None}, "audio_config"),
        (None, {"text_config": None}, "text_config"),
        (None, {"hidden_size": 1024}, "3072"),
        (None, {"projector_hidden_act": "relu"}, "relu"),
        (None, {"something_new": 1}, "something_new"),
    ],
)
def test_what_is_not_understood_is_refused(section: str | None, changes: dict[str, Any], word: str) -> None:
    inner = changes if section is None else {section: {**VOXTRAL_MINI[section], **changes}}
    with pytest.raises(ConfigError, match=word):
        registry.find("voxtral").parse({**VOXTRAL_MINI, **inner})


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"causal": True}, "causal"),
        ({"sliding_window": 750}, "sliding_window"),
        ({"pos_embed": "rope"}, "pos_embed"),
        ({"norm_type": "rms_norm"}, "norm_type"),
        ({"ffn_type": "swiglu"}, "ffn_type"),
        ({"norm_eps": 1e-6}, "norm_eps"),
        ({"head_dim": 32}, "20 heads of 32"),
        ({"n_kv_heads": 4}, "4 of keys"),
        ({"audio_encoding_args": {"num_mel_bins": 128, "global_log_mel_max": 1.5}}, "global_log_mel_max"),
        ({"something_new": 1}, "something_new"),
    ],
)
def test_native_encoders_that_are_not_understood_are_refused(changes: dict[str, Any], word: str) -> None:
    whisper = {"encoder_args": {**ENCODER_ARGS, **changes}, "downsample_args": {"downsample_factor": 4}}
    with pytest.raises(ConfigError, match=word):
        native.parse({**NATIVE_MINI, "multimodal": {"whisper_model_args": whisper}})


@pytest.mark.parametrize("multimodal", [{"whisper_model_args": {"downsample_args": {}}}, {"something_new": {"a": 1}}])
def test_native_senses_that_are_not_understood_are_refused(multimodal: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"encoder_args|something_new"):
        native.parse({**NATIVE_MINI, "multimodal": multimodal})
