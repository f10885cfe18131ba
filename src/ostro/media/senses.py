"""What a checkpoint folder says of the images, sounds and series that its model takes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ostro.core.errors import ConfigError
from ostro.core.media import SENSES
from ostro.media.audio_settings import AudioSettings, audio_settings
from ostro.media.image import ImageSettings
from ostro.media.series import CHANNELS, MAX_LENGTH, SeriesSettings

# What the reference takes for keys that vision_config leaves out, and patches a side of a token by model type.
_PATCH, _SIZE = 16, 1024
_MERGE = {"mistral3": 2}


@dataclass(frozen=True)
class Senses:
    """How a model wants what it senses; None where it has no encoder for it."""

    image: ImageSettings | None = None
    audio: AudioSettings | None = None
    series: SeriesSettings | None = None

    def __bool__(self) -> bool:
        return bool(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """Modalities that the model senses."""
        return tuple(name for name in SENSES if getattr(self, name) is not None)


def read_senses(path: Path) -> Senses:
    """The senses of a checkpoint folder; none of a GGUF file, whose encoders are in files of their own.

    Raises ConfigError for values that cannot be.
    """
    if not path.is_dir():
        return Senses()
    config, params = _read(path / "config.json"), _read(path / "params.json")
    if config.get("model_type") == "ostro":
        return _of_ostro(path, _section(config, "encoders"))
    hears = "audio_config" in config or "whisper_model_args" in _section(params, "multimodal")
    return Senses(_image(path, config, params), audio_settings(path) if hears else None)


def _image(path: Path, config: Mapping[str, Any], params: Mapping[str, Any]) -> ImageSettings | None:
    vision = _section(config, "vision_config")
    if vision:
        patch, size = vision.get("patch_size", _PATCH), vision.get("image_size", _SIZE)
        merge = config.get("spatial_merge_size", _MERGE.get(str(config.get("model_type")), 1))
    else:
        vision = _section(params, "vision_encoder")
        if not vision:
            return None
        patch, size = vision.get("patch_size", _PATCH), vision.get("image_size", _SIZE)
        merged = vision.get("mm_projector_id")
        merge = vision.get("spatial_merge_size", 2) if merged else 1
    of_mistral = any(path.glob("tekken*.json")) or any(path.glob("*.model.v*"))
    if of_mistral:
        given: Mapping[str, Any] = _read(next(iter(sorted(path.glob("tekken*.json"))), path / "tekken.json"))
        size = (_section(given, "image") or _section(given, "multimodal")).get("max_image_size", size)
    else:
        given = _read(path / "preprocessor_config.json") or _section(
            _read(path / "processor_config.json"), "image_processor"
        )
        size = _section(given, "size").get("longest_edge", size)
    for name, value in (("patch_size", patch), ("image_size", size), ("spatial_merge_size", merge)):
        if type(value) is not int or not 1 <= value <= 1 << 16:
            raise ConfigError(
                f"{path}: {name} of the image encoder must be a whole number above 0, not {value!r}.", param=name
            )
    return ImageSettings(patch * merge, size, "mistral" if of_mistral else "transformers")


def _of_ostro(path: Path, encoders: Mapping[str, Any]) -> Senses:
    """Ostro's own encoders: strides and pools of their convolutions say how much of an input a token stands for,
    tekken.json how large an image may be and how sounds become frames. Without the latter there is no hearing."""
    shapes = {name: _stem(path, name, value) for name, value in encoders.items()}
    image = audio = series = None
    if (shape := shapes.get("image")) is not None:
        size = _section(_read(path / "tekken.json"), "image").get("max_image_size")
        # As large as a square image that the encoder still takes, unless the tokenizer says less.
        largest = shape.side * math.isqrt(shape.most)
        size = min(size, largest) if type(size) is int and size >= shape.side else largest
        image = ImageSettings(shape.side, size - size % shape.side)
    if (shape := shapes.get("audio")) is not None and (found := audio_settings(path)) is not None:
        # Sounds are heard whole, however long.
        audio = replace(found, chunk_seconds=None, max_seconds=min(found.max_seconds, shape.most / found.frame_rate))
        for name, said, wanted in (
            ("num_mel_bins", audio.mel_bins, shape.channels),
            ("frames a token", audio.frames_per_token, shape.side),
        ):
            if said != wanted:
                raise ConfigError(
                    f"{path}: tekken.json has {said} {name}, but the audio encoder in config.json takes {wanted}.",
                    param="audio",
                )
    if (shape := shapes.get("series")) is not None:
        if shape.channels > len(CHANNELS):
            raise ConfigError(
                f"{path}: the series encoder takes {shape.channels} channels; {len(CHANNELS)} are known: "
                f"{', '.join(CHANNELS)}.",
                param="channels",
            )
        series = SeriesSettings(shape.channels, shape.side, min(shape.side * shape.most, MAX_LENGTH))
    return Senses(image, audio, series)


@dataclass(frozen=True)
class _Stem:
    """channels: of the input. side: elements of it that a token stands for. most: tokens of one input."""

    channels: int
    side: int
    most: int


def _stem(path: Path, name: str, values: object) -> _Stem:
    """Raises ConfigError. Whoever builds the encoder checks the rest."""
    listed = _section({"": values}, "").get("convolutions")
    convolutions = [_section({"": one}, "") for one in listed] if isinstance(listed, list) else [{"stride": 0}]
    strides = [one.get(name, 1) for one in convolutions for name in ("stride", "pool")]
    given = _section({"": values}, "")
    channels, most = given.get("channels"), given.get("max_tokens", 4096)
    for value in (channels, most, *strides):
        if type(value) is not int or not 1 <= value <= 1 << 20:
            raise ConfigError(
                f"{path}: encoders.{name} must have channels, max_tokens and strides of convolutions above 0.",
                param="encoders",
            )
    assert isinstance(channels, int)
    return _Stem(channels, math.prod(strides), most)


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    return found if isinstance(found, Mapping) else {}


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file. Whoever needs the file says what is wrong with it."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
