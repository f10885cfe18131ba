"""Series of numbers as an encoder takes them: normalised without losing their scale, refused where they are none."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostro.core.errors import ConfigError, InvalidRequestError
from ostro.media.parts import find_sources, put_back, read_source
from ostro.media.senses import Senses, read_senses
from ostro.media.series import CHANNELS, MAX_LENGTH, SeriesSettings, read_series

ALL = SeriesSettings(channels=4, token_length=4, max_length=4096)


def slow(values: list[float], settings: SeriesSettings) -> np.ndarray:
    """Value by value."""
    count = len(values)
    mean = math.fsum(values) / count
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / count)
    rms = math.sqrt(math.fsum(value**2 for value in values) / count)
    size = -(-count // settings.token_length) * settings.token_length
    out = np.zeros((4, 1, size))
    for index, value in enumerate(values):
        out[0, 0, index] = (value - mean) / deviation if deviation else 0
        out[1, 0, index] = math.log10(rms) / 4
        out[2, 0, index] = mean / (abs(mean) + deviation)
        out[3, 0, index] = 1
    return out[: settings.channels]


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-1e3, 1e3).map(lambda value: round(value, 3)), min_size=1, max_size=50),
    channels=st.integers(1, len(CHANNELS)),
    side=st.integers(1, 9),
)
def test_channels_are_what_they_are_said_to_be(values: list[float], channels: int, side: int) -> None:
    values = [*values, 1.0]
    wanted = SeriesSettings(channels, side)
    media = read_series(values, wanted)
    expected = slow(values, wanted)
    assert media.shape == expected.shape == (channels, 1, media.tokens * side)
    assert media.grid == (1, -(-len(values) // side))
    np.testing.assert_allclose(media.array(), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("factor", [1e-9, 0.1, 3.0, 1e6])
def test_a_unit_changes_the_scale_only(factor: float) -> None:
    values = np.random.default_rng(0).normal(3, 2, 37)
    one, other = read_series(values, ALL).array(), read_series(values * factor, ALL).array()
    np.testing.assert_allclose(one[[0, 2, 3]], other[[0, 2, 3]], atol=1e-5)
    np.testing.assert_allclose(other[1, 0, :37] - one[1, 0, :37], np.log10(factor) / 4, atol=1e-6)
    assert read_series(values, ALL).digest != read_series(values * factor, ALL).digest


@pytest.mark.parametrize("values", [[5], [0.0], [0, 0, 0], [7.1] * 33, [1e300, -1e300], [5e-324], [0.1] * 7])
def test_extremes_stay_numbers(values: list[float]) -> None:
    found = read_series(values, ALL).array()
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= 16
    if len(set(values)) == 1:
        assert not found[0].any(), "what is constant has no shape"
    outlier = read_series([0.0] * 4000 + [1.0], ALL).array()
    assert outlier[0].max() == 16


REFUSED = [
    ([], "is empty"),
    (None, "not nothing"),
    ("1,2,3", "must be a list of numbers, not str"),
    ({"a": 1}, "not dict"),
    ([1, "2"], r"\[1\] must be a number, not str"),
    ([1, None], r"\[1\] must be a number, not nothing"),
    ([True], r"\[0\] must be a number, not bool"),
    ([[1, 2], [3]], r"\[0\] must be a number, not list. Send one series"),
    ([1.0, float("nan")], r"\[1\] must be a finite number"),
    ([float("inf")], "finite"),
    ([10**400], "finite"),
    ([0] * (MAX_LENGTH + 1), "65537 values; up to 65536"),
    ([0] * 4097, "4097 values; up to 4096"),
]


@pytest.mark.parametrize(("values", "match"), REFUSED)
def test_what_is_no_series_is_refused(values: Any, match: str) -> None:
    with pytest.raises(InvalidRequestError, match=match):
        read_series(values, ALL)


@pytest.mark.parametrize("changes", [{"channels": 5}, {"channels": 0}, {"token_length": 0}, {"max_length": 1 << 20}])
def test_settings_that_cannot_be_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        SeriesSettings(**changes)


def test_parts_hold_numbers_plain_or_named() -> None:
    senses = Senses(series=ALL)
    values = [1, 2.5, -3]
    content = [{"type": "input_series", "input_series": values}, {"type": "text", "text": "what does it do"}]
    for shown in (values, {"values": values}):
        content[0] = {"type": "input_series", "input_series": shown}
        (source,) = find_sources([{"role": "user", "content": content}], senses)
        assert source.data is not None
        media = read_source(source, source.data, None, senses)
        assert media == read_series(values, ALL)
        done = put_back([{"role": "user", "content": content}], {source.place: media})
        assert done[0]["content"][0] == {"type": "media", "media": media}
    for shown, where in (
        ([1, "x"], r"content\[0\].input_series\[1\]"),
        ({"values": None}, r"input_series.values must"),
    ):
        content[0] = {"type": "input_series", "input_series": shown}
        with pytest.raises(InvalidRequestError, match=where):
            find_sources([{"role": "user", "content": content}], senses)
    content[0] = {"type": "input_series", "input_series": [1]}
    with pytest.raises(InvalidRequestError, match="this model takes text only"):
        find_sources([{"role": "user", "content": content}], Senses())


# What a folder says


def write(folder: Path, encoders: dict[str, Any], **tekken: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "ostro", "encoders": encoders}))
    (folder / "tekken.json").write_text(json.dumps(tekken))
    return folder


def stem(channels: int, *strides: int, **more: Any) -> dict[str, Any]:
    return {"channels": channels, "convolutions": [{"channels": 8, "stride": one} for one in strides], **more}


AUDIO = {
    "sampling_rate": 16_000,
    "frame_rate": 12.5,
    "audio_encoding_config": {"num_mel_bins": 16, "hop_length": 160, "window_size": 400},
}


def test_ostro_s_senses_are_read_from_its_folder(tmp_path: Path) -> None:
    encoders = {
        "image": stem(3, 2, 1, 4, max_tokens=100),
        "audio": stem(16, 2, 4, max_tokens=250),
        "series": stem(4, 4, 2, max_tokens=32),
    }
    senses = read_senses(write(tmp_path, encoders, audio=AUDIO))
    assert senses.names == ("image", "audio", "series")
    assert senses.image is not None
    assert (senses.image.token_side, senses.image.max_side) == (8, 80), "ten tokens a side are a hundred"
    assert senses.audio is not None
    assert (senses.audio.mel_bins, senses.audio.chunk_seconds, senses.audio.max_seconds) == (16, None, 20.0)
    assert senses.series == SeriesSettings(4, 8, 256)
    smaller = read_senses(write(tmp_path, encoders, image={"max_image_size": 50}))
    assert smaller.image is not None
    assert smaller.image.max_side == 48
    assert smaller.audio is None, "nothing says how sounds become frames"
    assert not read_senses(write(tmp_path, {}))


@pytest.mark.parametrize(
    ("encoders", "match"),
    [
        ({"audio": stem(20, 2, 4)}, "16 num_mel_bins, .* takes 20"),
        ({"audio": stem(16, 2)}, "8 frames a token, .* takes 2"),
        ({"series": stem(5, 4)}, "5 channels; 4 are known"),
        ({"series": {"channels": 1}}, "encoders.series must have"),
        ({"image": stem(3, 0)}, "encoders.image must have"),
        ({"image": 3}, "encoders.image must have"),
    ],
)
def test_encoders_that_do_not_fit_are_refused(tmp_path: Path, encoders: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        read_senses(write(tmp_path, encoders, audio=AUDIO))
