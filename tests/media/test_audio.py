"""Sounds: decoded and turned into features as the references do, and refused in words that help."""

from __future__ import annotations

import io
import json
import math
import struct
import tracemalloc
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_common.tokens.tokenizers.audio import (
    Audio,
    AudioConfig,
    AudioEncoder,
    AudioSpectrogramConfig,
    SpecialAudioIDs,
)
from transformers import VoxtralProcessor, WhisperFeatureExtractor

from ostro.core.errors import ConfigError, InvalidRequestError
from ostro.media import audio
from ostro.media.audio import AudioSettings, audio_settings, decode_audio, read_audio
from ostro.media.mel import log_mel, mel_filters

RATE = 16_000
VOXTRAL = AudioSettings()
# Chunks of 0.8 seconds, ten tokens, which a test has many of in no time.
SMALL = AudioSettings(chunk_seconds=0.8)
WHOLE = AudioSettings(chunk_seconds=None)


def tones(seconds: float, rate: int = RATE, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Loud at first and faint in the end: [N], or [N, channels]."""
    count = int(seconds * rate)
    at = np.arange(count) / rate
    generator = np.random.default_rng(seed)
    columns = [
        0.4 * np.sin(2 * np.pi * (300 + 200 * channel) * at) * np.exp(-at) + generator.normal(0, 0.01, count)
        for channel in range(channels)
    ]
    samples = np.stack(columns, axis=1).astype(np.float32)
    return samples[:, 0] if channels == 1 else samples


def written(samples: np.ndarray, rate: int = RATE, kind: str = "WAV", subtype: str | None = None, **more: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype, **more)
    return file.getvalue()


FORMATS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "wav": ("WAV", "PCM_16", {}),
    "wav of 24 bits": ("WAV", "PCM_24", {}),
    "wav of floats": ("WAV", "FLOAT", {}),
    "wav of the telephone": ("WAV", "ULAW", {}),
    "wav with channel masks": ("WAVEX", "PCM_16", {}),
    "flac": ("FLAC", None, {}),
    "mp3": ("MP3", None, {}),
    "mp3 of varying rate": ("MP3", None, {"bitrate_mode": "VARIABLE", "compression_level": 0.4}),
    "vorbis": ("OGG", "VORBIS", {}),
    "opus": ("OGG", "OPUS", {}),
}
MIME = {"wav": "audio/x-wav", "flac": "audio/flac", "mp3": "audio/mpeg; rate=1", "vorbis": "audio/ogg", "opus": "OPUS"}


def example(name: str, rate: int = RATE, channels: int = 1, seconds: float = 2.5) -> bytes:
    kind, subtype, more = FORMATS[name]
    return written(tones(seconds, rate, channels), rate, kind, subtype, **more)


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2), (8_000, 1), (24_000, 3)])
def test_every_format_is_decoded_as_mistral_common_does(name: str, rate: int, channels: int) -> None:
    if FORMATS[name][0] == "MP3":
        channels = min(channels, 2)
    data = example(name, rate, channels)
    theirs = Audio.from_bytes(data, strict=False)
    theirs.resample(RATE)
    ours = decode_audio(data, VOXTRAL, declared=MIME.get(name, "wav" if "wav" in name else "mp3"))
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, theirs.audio_array)


@pytest.mark.parametrize("rate", [4_000, 11_025, 22_050, 44_100, 192_000])
def test_blocks_are_resampled_as_the_whole_is(rate: int) -> None:
    """Longer than the blocks that are decoded at a time."""
    data = written(tones(5, rate, 2), rate)
    theirs = Audio.from_bytes(data, strict=False)
    theirs.resample(RATE)
    np.testing.assert_array_equal(decode_audio(data, VOXTRAL), theirs.audio_array)


@pytest.mark.parametrize("declared", [None, "", "application/octet-stream", "audio/wave", "WAV", "audio/vnd.wave"])
def test_what_is_declared_may_be_vague(declared: str | None) -> None:
    assert len(decode_audio(example("wav"), VOXTRAL, declared=declared)) == 2.5 * RATE


def processor_features(samples: np.ndarray, extractor: Any, chunk: int) -> np.ndarray:
    """What transformers' VoxtralProcessor makes of a sound: [chunks, mel_bins, frames]."""
    options = {**VoxtralProcessor.audio_kwargs, "pad_to_multiple_of": chunk}
    del options["max_source_positions"]
    processor: Any = SimpleNamespace(feature_extractor=extractor)
    features = VoxtralProcessor._retrieve_input_features(processor, [samples], chunk // 160, **options)
    return features.numpy()


@cache
def extractor(bands: int = 128, chunk: int = 30) -> Any:
    return WhisperFeatureExtractor(feature_size=bands, chunk_length=chunk)


# The last is faint in its second chunk: what is audible there is measured by the first.
@pytest.mark.parametrize("count", [1, 399, 16_000, 47_993, 480_000, 480_001, 700_000])
def test_features_are_the_reference_s(count: int) -> None:
    samples = tones(count / RATE)
    assert len(samples) == count
    media = read_audio(written(samples, subtype="FLOAT"), VOXTRAL)
    ours = media.array()
    expected = processor_features(samples, extractor(), 480_000)
    assert ours.shape == expected.shape == (-(-count // 480_000), 128, 3000)
    assert media.grid == (1, 375 * len(ours))
    # The reference is in float32 throughout; its other way, in float64, is nearer.
    np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=0)
    padded = np.pad(samples, (0, -count % 480_000))
    exact = extractor()._np_extract_fbank_features([padded], "cpu")[0]
    np.testing.assert_allclose(np.concatenate(list(ours), axis=1), exact, atol=2e-5, rtol=0)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 60_000), bands=st.sampled_from([16, 80, 128]), seed=st.integers(0, 1000))
def test_features_in_small_chunks_are_the_reference_s(count: int, bands: int, seed: int) -> None:
    samples = tones(4, seed=seed)[:count]
    small = AudioSettings(chunk_seconds=0.8, mel_bins=bands)
    ours = log_mel(samples, small, small.tokens(count))
    expected = processor_features(samples, extractor(bands), 12_800)
    np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=0)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 60_000))
def test_features_without_chunks_are_the_reference_s(count: int) -> None:
    samples = tones(4)[:count]
    tokens = WHOLE.tokens(count)
    ours = log_mel(samples, WHOLE, tokens)
    assert ours.shape == (1, 128, 8 * tokens)
    padded = np.pad(samples, (0, max(0, 1280 * tokens - count)))
    expected = extractor()(padded, sampling_rate=RATE, padding=False, truncation=False, return_tensors="np")
    # A sound that is not padded may have a frame that is not whole, which the token count leaves out.
    np.testing.assert_allclose(ours, expected["input_features"][:, :, : 8 * tokens], atol=1e-4, rtol=0)


@settings(max_examples=300, deadline=None)
@given(count=st.integers(1, 2_000_000), chunk=st.sampled_from([30.0, 0.8, 0.08, None]))
def test_tokens_are_counted_as_mistral_common_does(count: int, chunk: float | None) -> None:
    config = AudioConfig(RATE, 12.5, AudioSpectrogramConfig(128, 160, 400), chunk)
    encoder = AudioEncoder(config, SpecialAudioIDs(24, 25, None, None, None))
    padded = encoder.pad(np.empty(count, dtype=np.int8), RATE)
    expected = encoder._encode_audio_tokens(len(padded)).count(24)
    ours = AudioSettings(chunk_seconds=chunk)
    assert ours.tokens(count) == expected
    assert ours.chunks(expected) == (1 if chunk is None else math.ceil(count / (chunk * RATE)))


def test_silence_has_features_and_equal_sounds_one_digest() -> None:
    data = written(np.zeros(RATE, dtype=np.float32))
    media = read_audio(data, SMALL)
    assert media.shape == (2, 128, 80)
    assert media.whole
    np.testing.assert_allclose(media.array(), -1.5, atol=1e-6)
    assert media.modality == "audio"
    assert read_audio(data, SMALL).digest == media.digest
    assert read_audio(written(tones(1)), SMALL).digest != media.digest


def test_memory_is_that_of_the_answer() -> None:
    """Ten minutes that would be 460 MB if they were decoded whole."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 48_000, 2, format="FLAC") as sound:
        for _ in range(60):
            sound.write(np.zeros((480_000, 2), dtype=np.float32))
    tracemalloc.start()
    try:
        media = read_audio(file.getvalue(), VOXTRAL)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert media.shape == (20, 128, 3000)
    assert peak < 180e6


def refusal(data: bytes, limits: AudioSettings = VOXTRAL, declared: str | None = None) -> str:
    with pytest.raises(InvalidRequestError) as error:
        read_audio(data, limits, declared=declared)
    return error.value.message


PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


@pytest.mark.parametrize(
    ("data", "declared", "words"),
    [
        (b"", None, "is empty"),
        (b"", "wav", "is empty"),
        (PNG, None, "The sound is a PNG image; wav, flac, mp3 and ogg"),
        (PNG, "audio/wav", "was declared as 'audio/wav', but is a PNG image"),
        (b"\0\0\0\x20ftypM4A ", "audio/mp4", "declared as 'audio/mp4', which is not supported"),
        (b"\0\0\0\x20ftypM4A ", None, "is an MP4 file"),
        (b"\x1aE\xdf\xa3\x9fB", None, "is a WebM"),
        (b"hello, world", "mp3", "declared as 'mp3', but is no sound in a known format"),
        (b"RIFF\0\0\0\0AVI LIST", None, "an AVI video"),
        (b"OggS" + bytes(24) + b"Speex   ", None, "another codec than vorbis and opus"),
        (b"\xff\xf1\x50\x80\x00\x1f\xfc", None, "no sound in a known format"),
        (b"ID3", None, "no sound in a known format"),
        (b"RIFF", None, "no sound in a known format"),
        (example("wav"), "image/png", "declared as 'image/png', which is not supported"),
        (example("wav"), "x" * 1000, "…', which is not supported"),
        (example("mp3"), "wav", "declared as 'wav', but its bytes are mp3"),
        (example("wav"), "audio/mpeg", "declared as 'audio/mpeg', but its bytes are wav"),
        (example("flac"), "audio/ogg", "but its bytes are flac"),
        (example("vorbis"), "opus", r"but its bytes are ogg (vorbis)"),
        (example("opus"), "audio/vorbis", r"but its bytes are ogg (opus)"),
    ],
)
def test_what_is_no_sound_or_another_than_declared_is_refused(data: bytes, declared: str | None, words: str) -> None:
    assert words in refusal(data, declared=declared)


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"wav of the telephone"}))
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.99])
def test_what_is_cut_off_is_refused(name: str, share: float) -> None:
    data = example(name, seconds=20)
    kind = name.split(" ", maxsplit=1)[0]
    message = refusal(data[: int(share * len(data))])
    assert "The sound is cut off" in message
    assert kind in message


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(sorted(FORMATS)), seed=st.integers(0, 10_000), bytes_changed=st.integers(1, 40))
def test_damage_is_refused_or_heard_as_numbers(name: str, seed: int, bytes_changed: int) -> None:
    data = bytearray(_SHORT[name])
    generator = np.random.default_rng(seed)
    for at in generator.integers(0, len(data), bytes_changed):
        data[at] = generator.integers(256)
    del data[len(data) - int(generator.integers(0, 20)) :]
    try:
        media = read_audio(bytes(data), SMALL)
    except InvalidRequestError:
        return
    assert np.isfinite(media.array()).all()


_SHORT = {name: example(name, seconds=0.4) for name in FORMATS}


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_what_is_too_long_is_refused(name: str) -> None:
    limits = AudioSettings(max_seconds=2)
    decode_audio(example(name, seconds=1.9), limits)
    message = refusal(example(name, rate=24_000, seconds=2.5), limits)
    assert "up to 2 seconds can be heard" in message


def with_flac_length(data: bytes, samples: int) -> bytes:
    """STREAMINFO ends its rate, channels and width with 36 bits of length."""
    fields = int.from_bytes(data[18:26], "big")
    return data[:18] + (fields >> 36 << 36 | samples).to_bytes(8, "big") + data[26:]


def test_a_header_that_promises_days_is_refused_before_anything_is_decoded() -> None:
    message = refusal(with_flac_length(example("flac"), (1 << 36) - 1))
    assert "seconds long; up to 1800 seconds can be heard" in message
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 0, b"WAVE", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8, b"data", 8000)
    # Eight bits a sample: as many seconds as it says.
    assert len(decode_audio(header + bytes(8000), VOXTRAL)) == RATE
    assert "1801 seconds long" in refusal(header[:-4] + struct.pack("<I", 1801 * 8000) + bytes(1801 * 8000))


def test_flac_that_promises_more_than_it_has_is_cut_off() -> None:
    data = example("flac")
    assert "cut off" in refusal(with_flac_length(data, int(2.5 * RATE) + 100))


def test_flac_without_a_length_is_refused_with_a_way_out() -> None:
    assert "as is written into a pipe" in refusal(with_flac_length(example("flac"), 0))


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_wav_from_a_pipe_is_heard_to_its_end(size: int) -> None:
    data = example("wav")
    at = data.index(b"data") + 4
    assert len(decode_audio(data[:at] + struct.pack("<I", size) + data[at + 4 :], VOXTRAL)) == 2.5 * RATE


def without_first_frame(data: bytes) -> bytes:
    """An mp3 without the frame that tells how many follow."""
    second = next(at for at in range(4, len(data)) if data[at] == 0xFF and data[at + 1] == data[1])
    return data[second:]


def test_mp3_that_does_not_tell_its_length_is_heard_and_counted() -> None:
    """By its first frames, which are silence, it would be far longer than it is."""
    samples = np.concatenate([np.zeros(10 * RATE, dtype=np.float32), tones(10)])
    data = without_first_frame(written(samples, kind="MP3", bitrate_mode="VARIABLE", compression_level=0.2))
    assert soundfile.info(io.BytesIO(data)).duration > 25
    heard = len(decode_audio(data, AudioSettings(max_seconds=21))) / RATE
    assert 19.9 < heard < 20.2
    assert "longer than 15 seconds" in refusal(data, AudioSettings(max_seconds=15))


def test_mp3_behind_a_tag_is_heard() -> None:
    tag = b"ID3\x03\0\0" + bytes([0, 0, 2, 10]) + bytes(266)
    data = example("mp3")
    np.testing.assert_array_equal(decode_audio(tag + data, VOXTRAL), decode_audio(data, VOXTRAL))
    assert "but its bytes are mp3" in refusal(tag + data, declared="wav")


def test_wav_without_samples_is_refused() -> None:
    assert "has no samples" in refusal(written(np.zeros(0, dtype=np.float32)))
    # Fewer than make one at the model's rate.
    assert "has no samples" in refusal(written(np.zeros(1, dtype=np.float32), 192_000))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(value: float) -> None:
    samples = tones(1)
    samples[700] = value
    assert "not numbers" in refusal(written(samples, subtype="FLOAT"))


def test_samples_beyond_all_bounds_are_refused() -> None:
    samples = tones(1)
    samples[700] = -1e20
    assert "beyond 2^31" in refusal(written(samples, subtype="FLOAT"))
    loud = read_audio(written(np.full(RATE, 2.0**31, dtype=np.float32), subtype="FLOAT"), SMALL)
    assert np.isfinite(loud.array()).all()


@pytest.mark.parametrize("rate", [1, 3999, 192_001, 600_000])
def test_absurd_rates_are_refused(rate: int) -> None:
    assert f"has {rate} samples a second; from 4000 to 192000" in refusal(written(np.zeros(100), rate))


def test_absurd_numbers_of_channels_are_refused() -> None:
    assert "has 9 channels; up to 8" in refusal(written(np.zeros((100, 9)), RATE))


TEKKEN_AUDIO: dict[str, Any] = {
    "sampling_rate": 16000,
    "frame_rate": 12.5,
    "audio_encoding_config": {"num_mel_bins": 128, "hop_length": 160, "window_size": 400},
    "chunk_length_s": 30.0,
}
EXTRACTOR: dict[str, Any] = {
    "chunk_length": 30,
    "dither": 0.0,
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 128,
    "hop_length": 160,
    "n_fft": 400,
    "n_samples": 480000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "processor_class": "VoxtralProcessor",
    "return_attention_mask": False,
    "sampling_rate": 16000,
}


def write(folder: Path, name: str, values: object) -> None:
    (folder / name).write_text(json.dumps(values))


def test_settings_come_from_the_tokenizer_first(tmp_path: Path) -> None:
    assert audio_settings(tmp_path) is None
    write(tmp_path, "preprocessor_config.json", EXTRACTOR)
    assert audio_settings(tmp_path) == VOXTRAL
    write(tmp_path, "tekken.json", {"config": {}, "vocab": [], "audio": None})
    assert audio_settings(tmp_path) == VOXTRAL
    write(tmp_path, "tekken.json", {"config": {}, "vocab": [], "audio": {**TEKKEN_AUDIO, "chunk_length_s": 0.8}})
    assert audio_settings(tmp_path) == SMALL
    write(tmp_path, "tekken.json", {"audio": {**TEKKEN_AUDIO, "chunk_length_s": None}})
    assert audio_settings(tmp_path) == WHOLE


def test_settings_come_from_what_transformers_saves(tmp_path: Path) -> None:
    extractor(80).save_pretrained(tmp_path)
    assert audio_settings(tmp_path) == AudioSettings(mel_bins=80)


def test_settings_come_from_a_processor_s_file(tmp_path: Path) -> None:
    write(tmp_path, "processor_config.json", {"feature_extractor": EXTRACTOR, "processor_class": "VoxtralProcessor"})
    assert audio_settings(tmp_path) == VOXTRAL


def test_what_prepares_images_says_nothing_of_sound(tmp_path: Path) -> None:
    write(tmp_path, "preprocessor_config.json", {"image_processor_type": "PixtralImageProcessor", "size": 1})
    write(tmp_path, "processor_config.json", {"image_processor": {"patch_size": 14}, "patch_size": 14})
    write(tmp_path, "tekken.json", {"config": {}, "image": {"image_patch_size": 14}})
    assert audio_settings(tmp_path) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sampling_rate": "16000"}, r"sampling_rate"),
        ({"sampling_rate": 8000}, "16000 samples a second"),
        ({"sampling_rate": -1}, "above 0"),
        ({"frame_rate": 13}, "no whole frames"),
        ({"frame_rate": 100}, "too long for tokens"),
        ({"chunk_length_s": 0.1}, "no whole tokens"),
        ({"chunk_length_s": 1e9}, "from 0 to 3600"),
        ({"chunk_length_s": -30}, "from 0 to 3600"),
        ({"transcription_format": "streaming"}, "transcribes while it listens"),
        ({"voice_num_audio_tokens": {"a": 1}}, "speaks"),
        ({"something_new": 1}, "something_new"),
        ({"audio_encoding_config": None}, "audio_encoding_config"),
        ({"audio_encoding_config": {"num_mel_bins": 128, "hop_length": 160}}, "window_size"),
        ({"audio_encoding_config": {"num_mel_bins": 0, "hop_length": 160, "window_size": 400}}, "mel_bins"),
    ],
)
def test_settings_that_are_wrong_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    write(tmp_path, "tekken.json", {"audio": {**TEKKEN_AUDIO, **changes}})
    with pytest.raises(ConfigError, match=words):
        audio_settings(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"feature_extractor_type": "ParakeetFeatureExtractor"}, "'WhisperFeatureExtractor' is"),
        ({"dither": 0.1}, "dither"),
        ({"padding_value": 1.0}, "padding_value"),
        ({"padding_side": "left"}, "padding_side"),
        ({"do_normalize": True}, "do_normalize"),
        ({"n_fft": 400.5}, "n_fft"),
        ({"something_new": 1}, "something_new"),
    ],
)
def test_extractors_that_are_wrong_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    write(tmp_path, "preprocessor_config.json", {**EXTRACTOR, **changes})
    with pytest.raises(ConfigError, match=words):
        audio_settings(tmp_path)


@pytest.mark.parametrize("name", ["tekken.json", "preprocessor_config.json", "processor_config.json"])
def test_files_that_are_no_json_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{")
    with pytest.raises(ConfigError, match=name):
        audio_settings(tmp_path)


def test_more_bands_than_a_window_tells_apart_are_refused() -> None:
    with pytest.raises(ConfigError, match="too few frequencies for 400 mel bands"):
        mel_filters(AudioSettings(mel_bins=400))


def test_samples_of_all_channels_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file of silence takes as long as it has samples, however few seconds those are."""
    monkeypatch.setattr(audio, "MAX_SAMPLES", 8 * 192_000 * 2)
    for seconds, kind in ((2.01, "FLAC"), (2.01, "WAV")):
        out = io.BytesIO()
        soundfile.write(out, np.zeros((int(192_000 * seconds), 8)), 192_000, format=kind)
        with pytest.raises(InvalidRequestError, match="samples, at 192000 a second in each of 8 channels"):
            decode_audio(out.getvalue(), AudioSettings(max_seconds=21))
    out = io.BytesIO()
    soundfile.write(out, np.zeros((192_000 * 2, 8)), 192_000, format="FLAC")
    assert len(decode_audio(out.getvalue(), AudioSettings(max_seconds=21))) == 2 * RATE
