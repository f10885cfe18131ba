"""How large an image may be and what a token stands for, as the folders of published models say it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ostro.core.errors import ConfigError
from ostro.media.image import ImageSettings
from ostro.media.senses import read_senses

PIXTRAL: dict[str, Any] = {"hidden_size": 1024, "patch_size": 16, "image_size": 1024, "adapter_bias": True}
MISTRAL3: dict[str, Any] = {"patch_size": 14, "image_size": 1540}
MERGED = {**MISTRAL3, "max_image_size": 1540, "mm_projector_id": "patch_merge", "spatial_merge_size": 2}
HF = {
    "model_type": "mistral3",
    "spatial_merge_size": 2,
    "vision_config": {**MISTRAL3, "model_type": "pixtral"},
    "text_config": {"model_type": "mistral"},
}
LLAVA = {"model_type": "llava", "vision_config": {"patch_size": 16, "image_size": 1024, "model_type": "pixtral"}}
PREPROCESSOR = {"patch_size": 14, "size": {"longest_edge": 1540}}
TEKKEN: dict[str, Any] = {"config": {"version": "v7"}}


def settings(folder: Path, files: dict[str, Any]) -> ImageSettings | None:
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    senses = read_senses(folder)
    assert senses.names == (("image",) if senses.image else ())
    return senses.image


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(
            {"params.json": {"dim": 5120, "vision_encoder": PIXTRAL}, "tekken.json": TEKKEN},
            ImageSettings(16, 1024, "mistral"),
            id="Pixtral",
        ),
        pytest.param(
            # A merge that no projector asks for is none.
            {"params.json": {"vision_encoder": {**PIXTRAL, "spatial_merge_size": 2}}, "tekken.json": TEKKEN},
            ImageSettings(16, 1024, "mistral"),
            id="Pixtral with a merge of nothing",
        ),
        pytest.param(
            {"config.json": HF, "preprocessor_config.json": PREPROCESSOR, "tekken.json": TEKKEN},
            ImageSettings(28, 1540, "mistral"),
            id="Mistral Small 3.1",
        ),
        pytest.param(
            {"config.json": HF, "preprocessor_config.json": {**PREPROCESSOR, "size": {"longest_edge": 700}}},
            ImageSettings(28, 700, "transformers"),
            id="Mistral Small 3.1 without its tokenizer",
        ),
        pytest.param(
            {"config.json": HF, "processor_config.json": {"image_processor": {"size": {"longest_edge": 700}}}},
            ImageSettings(28, 700, "transformers"),
            id="as transformers 5 saves it",
        ),
        pytest.param(
            {
                "config.json": HF,
                "preprocessor_config.json": {"size": {"longest_edge": 700}},
                "processor_config.json": {"image_processor": {"size": {"longest_edge": 800}}},
            },
            ImageSettings(28, 700, "transformers"),
            id="the image processor's own file first",
        ),
        pytest.param({"config.json": HF}, ImageSettings(28, 1540, "transformers"), id="without a processor"),
        pytest.param(
            {"config.json": {key: value for key, value in HF.items() if key != "spatial_merge_size"}},
            ImageSettings(28, 1540, "transformers"),
            id="merge left out",
        ),
        pytest.param(
            {"config.json": {"model_type": "mistral3", "vision_config": {"model_type": "pixtral"}}},
            ImageSettings(32, 1024, "transformers"),
            id="sizes left out",
        ),
        pytest.param(
            {"config.json": LLAVA, "preprocessor_config.json": {"size": {"longest_edge": 1024}}},
            ImageSettings(16, 1024, "transformers"),
            id="Pixtral of the community",
        ),
        pytest.param(
            {"params.json": {"vision_encoder": MERGED}, "tekken.json": TEKKEN},
            ImageSettings(28, 1540, "mistral"),
            id="Mistral Small 3.1 native",
        ),
        pytest.param(
            {"params.json": {"vision_encoder": {**MERGED, "spatial_merge_size": 3}}, "tekken.json": TEKKEN},
            ImageSettings(42, 1540, "mistral"),
            id="another merge",
        ),
        pytest.param(
            {
                "params.json": {
                    "vision_encoder": {key: value for key, value in MERGED.items() if key != "spatial_merge_size"}
                },
                "tekken.json": TEKKEN,
            },
            ImageSettings(28, 1540, "mistral"),
            id="native, merge left out",
        ),
        pytest.param(
            {
                "params.json": {"vision_encoder": PIXTRAL},
                "tekken.json": {**TEKKEN, "multimodal": {"image_patch_size": 16, "max_image_size": 960}},
            },
            ImageSettings(16, 960, "mistral"),
            id="multimodal of tekken.json",
        ),
        pytest.param(
            {
                "config.json": HF,
                "preprocessor_config.json": PREPROCESSOR,
                "tekken.json": {**TEKKEN, "image": {"max_image_size": 980}, "multimodal": {"max_image_size": 960}},
            },
            ImageSettings(28, 980, "mistral"),
            id="image of tekken.json before multimodal",
        ),
        pytest.param(
            {
                "params.json": {"vision_encoder": MERGED},
                "tekken.json": {**TEKKEN, "image": {"max_image_size": 1400}},
            },
            ImageSettings(28, 1400, "mistral"),
            id="tekken.json before params.json",
        ),
        pytest.param(
            {"params.json": {"vision_encoder": PIXTRAL}, "tokenizer.model.v7m1": {}},
            ImageSettings(16, 1024, "mistral"),
            id="Pixtral Large's tokenizer",
        ),
        pytest.param(
            {"config.json": HF, "params.json": {"vision_encoder": PIXTRAL}, "tekken.json": TEKKEN},
            ImageSettings(28, 1540, "mistral"),
            id="both formats in one folder",
        ),
        pytest.param({"params.json": {"dim": 5120}, "tekken.json": TEKKEN}, None, id="text only, native"),
        pytest.param({"config.json": {"model_type": "mistral"}, "tekken.json": TEKKEN}, None, id="text only"),
        pytest.param({}, None, id="empty"),
    ],
)
def test_image_settings_of_a_folder(tmp_path: Path, files: dict[str, Any], expected: ImageSettings | None) -> None:
    assert settings(tmp_path, files) == expected


@pytest.mark.parametrize("bad", [0, -14, 1 << 17, 14.0, "14", True, [14]])
def test_sizes_that_cannot_be_are_named(tmp_path: Path, bad: Any) -> None:
    vision = {**MISTRAL3, "model_type": "pixtral"}
    for name, config in (
        ("patch_size", {**HF, "vision_config": {**vision, "patch_size": bad}}),
        ("image_size", {**HF, "vision_config": {**vision, "image_size": bad}}),
        ("spatial_merge_size", {**HF, "spatial_merge_size": bad}),
    ):
        with pytest.raises(ConfigError, match=name) as caught:
            settings(tmp_path, {"config.json": config})
        assert caught.value.param == name


def test_a_file_has_no_senses(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert not read_senses(file)
