"""How a model hears: what a checkpoint's files say of the way from samples to mel frames to tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ostro.core.errors import ConfigError

# Mel filters end here whatever the rate, as the reference has it; a rate below twice that has empty filters.
MAX_FREQUENCY = 8000.0
EXTRACTOR = "WhisperFeatureExtractor"

Shape = TypeVar("Shape")


@dataclass(frozen=True)
class AudioSettings:
    """From samples to tokens.

    sampling_rate: in Hz. mel_bins: bands of a frame. hop_length, window_size: samples between frames, and of one.
    chunk_seconds: sounds are padded to whole chunks of it; None pads to whole tokens only. frame_rate: tokens a
    second. max_seconds: longer sounds are refused.

    Raises ConfigError where chunks are not whole tokens or tokens not whole frames.
    """

    sampling_rate: int = 16_000
    mel_bins: int = 128
    hop_length: int = 160
    window_size: int = 400
    chunk_seconds: float | None = 30.0
    frame_rate: float = 12.5
    max_seconds: float = 1800.0

    def __post_init__(self) -> None:
        for field in ("sampling_rate", "mel_bins", "hop_length", "window_size", "frame_rate", "max_seconds"):
            value = getattr(self, field)
            if not (math.isfinite(value) and 0 < value < 1 << 20):
                raise ConfigError(f"{field} of the audio settings must be above 0, not {value:g}.", param=field)
        if self.chunk_seconds is not None and not 0 < self.chunk_seconds <= 3600:
            raise ConfigError(
                f"chunk_seconds of the audio settings must be from 0 to 3600, not {self.chunk_seconds:g}.",
                param="chunk_seconds",
            )
        if self.sampling_rate < 2 * MAX_FREQUENCY:
            raise ConfigError(
                f"The audio settings have sampling_rate={self.sampling_rate}; mel filters reach to "
                f"{MAX_FREQUENCY:g} Hz, which take {2 * MAX_FREQUENCY:g} samples a second.",
                param="sampling_rate",
            )
        per_token = self.sampling_rate / self.frame_rate
        if per_token % self.hop_length:
            raise ConfigError(
                f"The audio settings have {per_token:g} samples a token, which are no whole frames of hop_length="
                f"{self.hop_length}.",
                param="frame_rate",
            )
        # A frame at the end of the shortest sound mirrors half a window.
        if per_token <= self.window_size // 2:
            raise ConfigError(
                f"The audio settings have window_size={self.window_size}, which is too long for tokens of "
                f"{per_token:g} samples.",
                param="window_size",
            )
        if self.chunk_seconds is not None and (self.chunk_seconds * self.sampling_rate) % per_token:
            raise ConfigError(
                f"The audio settings have chunks of {self.chunk_seconds:g} seconds, which are no whole tokens of "
                f"{1 / self.frame_rate:g} seconds.",
                param="chunk_seconds",
            )

    @property
    def frames_per_token(self) -> int:
        return int(self.sampling_rate / self.frame_rate) // self.hop_length

    def tokens(self, samples: int) -> int:
        """Placeholders of a sound of so many samples, as mistral-common counts them: padding included, and a frame
        that is not whole at the end of a sound without chunks left out."""
        if self.chunk_seconds is not None:
            chunk = int(self.chunk_seconds * self.sampling_rate)
            return -(-samples // chunk) * (chunk // self.hop_length // self.frames_per_token)
        frames = max(samples, self.window_size) // self.hop_length
        return -(-frames // self.frames_per_token)

    def chunks(self, tokens: int) -> int:
        """How many pieces a sound of so many tokens has; they are heard one by one."""
        return 1 if self.chunk_seconds is None else tokens // round(self.chunk_seconds * self.frame_rate)


def audio_settings(folder: Path) -> AudioSettings | None:
    """What a checkpoint folder says: the `audio` section of tekken.json, else the feature extractor of
    preprocessor_config.json or processor_config.json; None where neither speaks of sound.

    Raises ConfigError for what is unreadable, wrong or unknown.
    """
    settings = _of_tekken(folder / "tekken.json")
    for name, key in (("preprocessor_config.json", None), ("processor_config.json", "feature_extractor")):
        settings = settings or _of_extractor(folder / name, key)
    return settings


class _Spectrogram(msgspec.Struct, forbid_unknown_fields=True):
    num_mel_bins: int
    hop_length: int
    window_size: int


class _TekkenAudio(msgspec.Struct, forbid_unknown_fields=True):
    """`audio` of tekken.json, as mistral-common's AudioConfig has it."""

    sampling_rate: int
    frame_rate: float
    audio_encoding_config: _Spectrogram
    chunk_length_s: float | None = None
    transcription_format: str = "instruct"
    transcription_delay_ms: float | None = None
    streaming_look_ahead_ms: float | None = None
    streaming_look_back_ms: float | None = None
    streaming_n_left_pad_tokens: int | None = None
    voice_num_audio_tokens: dict[str, int] | None = None


class _Tekken(msgspec.Struct):
    audio: _TekkenAudio | None = None


class _Extractor(msgspec.Struct, forbid_unknown_fields=True):
    """What transformers' WhisperFeatureExtractor saves, with its defaults."""

    feature_extractor_type: str
    chunk_length: float = 30
    dither: float = 0.0
    do_normalize: bool | None = None
    feature_size: int = 80
    hop_length: int = 160
    n_fft: int = 400
    n_samples: int | None = None
    nb_max_frames: int | None = None
    padding_side: str = "right"
    padding_value: float = 0.0
    processor_class: str | None = None
    return_attention_mask: bool | None = None
    sampling_rate: int = 16_000


def _of_tekken(path: Path) -> AudioSettings | None:
    audio = _read(path, _Tekken, _Tekken()).audio
    if audio is None:
        return None
    streams = audio.transcription_format != "instruct" or audio.transcription_delay_ms is not None
    if streams or audio.voice_num_audio_tokens is not None:
        kind = "transcribes while it listens" if streams else "speaks"
        raise ConfigError(f"{path.name}: the audio section is that of a model that {kind}, which is not supported.")
    encoding = audio.audio_encoding_config
    return AudioSettings(
        sampling_rate=audio.sampling_rate,
        mel_bins=encoding.num_mel_bins,
        hop_length=encoding.hop_length,
        window_size=encoding.window_size,
        chunk_seconds=audio.chunk_length_s,
        frame_rate=audio.frame_rate,
    )


def _of_extractor(path: Path, key: str | None) -> AudioSettings | None:
    values = _read(path, dict[str, Any], {})
    if key is not None:
        values = values.get(key) or {}
    kind = values.get("feature_extractor_type") if isinstance(values, dict) else None
    if kind is None:  # What prepares images has such a file too.
        return None
    if kind != EXTRACTOR:
        raise ConfigError(f"{path.name}: the feature extractor {kind!r} is not supported; '{EXTRACTOR}' is.")
    try:
        extractor = msgspec.convert(values, _Extractor)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path.name}: {error}.") from None
    for field, only in (("dither", 0), ("padding_value", 0), ("padding_side", "right")):
        if getattr(extractor, field) != only:
            raise ConfigError(
                f"{path.name}: '{field}' is {getattr(extractor, field)!r}; {only!r} is supported only.", param=field
            )
    if extractor.do_normalize:
        raise ConfigError(f"{path.name}: 'do_normalize' is set, which is not supported.", param="do_normalize")
    return AudioSettings(
        sampling_rate=extractor.sampling_rate,
        mel_bins=extractor.feature_size,
        hop_length=extractor.hop_length,
        window_size=extractor.n_fft,
        chunk_seconds=extractor.chunk_length,
    )


def _read(path: Path, shape: type[Shape], absent: Shape) -> Shape:
    """A JSON file as that shape. Raises ConfigError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=shape)
    except FileNotFoundError:
        return absent
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} cannot be read for how the model hears: {error}.") from None
