"""What a checkpoint folder says of the images and sounds that its model takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ostro.core.errors import ConfigError
from ostro.media.audio_settings import AudioSettings, audio_settings
from ostro.media.image import ImageSettings

# What the reference takes for keys that vision_config leaves out, and patches a side of a token by model type.
_PATCH, _SIZE = 16, 1024
_MERGE = {"mistral3": 2}


@dataclass(frozen=True)
class Senses:
    """How a model wants its images and sounds; None where it has no encoder for them."""

    image: ImageSettings | None = None
    audio: AudioSettings | None = None

    def __bool__(self) -> bool:
        return self.image is not None or self.audio is not None


def read_senses(path: Path) -> Senses:
    """The senses of a checkpoint folder; none of a GGUF file, whose encoders are in files of their own.

    Raises ConfigError for values that cannot be.
    """
    if not path.is_dir():
        return Senses()
    config, params = _read(path / "config.json"), _read(path / "params.json")
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
