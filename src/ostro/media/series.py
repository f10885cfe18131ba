"""Series of numbers, such as readings of a sensor or amounts of transactions, as an encoder takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ostro.core.errors import ConfigError, InvalidRequestError
from ostro.core.media import MediaInput

# What the channels are of, in order; a model may take the first few.
CHANNELS = ("shape", "scale", "level", "presence")
MAX_LENGTH = 1 << 16
# Powers of ten that the scale is measured in, and beyond which it is told no further.
DECADES = 4.0
MAX_DECADES = 12.0
# Deviations from the mean that are told; a lone value among n others is sqrt(n) of them away.
MAX_DEVIATION = 16.0
# A spread below this share of the size is the rounding of a constant, not a shape.
FLAT = 1e-12


@dataclass(frozen=True)
class SeriesSettings:
    """How a model wants its series.

    channels: the first so many of `CHANNELS`. token_length: values that one token stands for. max_length: longer series
    are refused. Raises ConfigError for what cannot be.
    """

    channels: int = 1
    token_length: int = 4
    max_length: int = 4096

    def __post_init__(self) -> None:
        for field, most in (("channels", len(CHANNELS)), ("token_length", MAX_LENGTH), ("max_length", MAX_LENGTH)):
            value = getattr(self, field)
            if type(value) is not int or not 1 <= value <= most:
                raise ConfigError(
                    f"{field} of the series settings must be from 1 to {most}, not {value!r}.", param=field
                )

    def tokens(self, length: int) -> int:
        """Placeholders of a series of so many values."""
        return -(-length // self.token_length)


def read_series(values: object, settings: SeriesSettings) -> MediaInput:
    """A list of numbers -> float32 [channels, 1, length], zeros behind it up to whole tokens.

    Channels, whatever the unit of the values:
    0 shape: (x - mean) / deviation, from -16 to 16; a constant series is all zeros.
    1 scale: log10 of the root mean square, divided by 4, from -3 to 3; the same all along.
    2 level: mean / (|mean| + deviation), from -1 to 1: how far from zero it stays compared to how much it moves.
    3 presence: 1 where there is a value, to tell padding from values at the mean.
    So series that differ by a factor differ in channel 1 only.

    Raises InvalidRequestError for what is no list of numbers, empty, too long or not finite.
    """
    return series_input(check_series(values, "The series"), settings)


def check_series(values: object, where: str, param: str | None = None) -> np.ndarray:
    """float64 [N] of what a client sent. where, param: the field, for errors. Raises InvalidRequestError."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise InvalidRequestError(f"{where} must be a list of numbers, not {_kind(values)}.", param=param)
    if not values:
        raise InvalidRequestError(f"{where} is empty.", param=param)
    if len(values) > MAX_LENGTH:
        raise _too_long(where, len(values), MAX_LENGTH, param)
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float):
            hint = " Send one series a part." if isinstance(value, list | tuple) else ""
            raise InvalidRequestError(f"{where}[{index}] must be a number, not {_kind(value)}.{hint}", param=param)
        if not _finite(value):
            raise InvalidRequestError(f"{where}[{index}] must be a finite number of 64 bits.", param=param)
    return np.asarray(values, dtype=np.float64)


def series_input(values_N: np.ndarray, settings: SeriesSettings) -> MediaInput:
    """`read_series` of numbers that have been checked, float64 [N]."""
    if not 1 <= len(values_N) <= settings.max_length:
        raise _too_long("The series", len(values_N), settings.max_length)
    columns = settings.tokens(len(values_N))
    out = np.zeros((settings.channels, 1, columns * settings.token_length), dtype=np.float32)
    out[:, 0, : len(values_N)] = describe(values_N)[: settings.channels]
    return MediaInput.of("series", out, (1, columns))


def describe(values_N: np.ndarray) -> np.ndarray:
    """Numbers, float64 [..., N] -> all channels [..., 4, N], float32, each series by itself."""
    # Relative to the largest one, so that squares neither overflow nor vanish.
    size = np.abs(values_N).max(axis=-1, keepdims=True)
    unit_N = values_N / np.where(size > 0, size, 1.0)
    mean = unit_N.mean(axis=-1, keepdims=True)
    deviation = unit_N.std(axis=-1, keepdims=True)
    deviation = np.where(deviation > FLAT, deviation, 0.0)
    shape_N = np.where(deviation > 0, (unit_N - mean) / np.where(deviation > 0, deviation, 1.0), 0.0)
    mean_square = np.sqrt((unit_N**2).mean(axis=-1, keepdims=True))
    decades = np.log10(np.where(size > 0, size, 1.0)) + np.log10(np.where(size > 0, mean_square, 1.0))
    scale = np.where(size > 0, decades.clip(-MAX_DECADES, MAX_DECADES), -MAX_DECADES) / DECADES
    level = mean / np.where(size > 0, np.abs(mean) + deviation, 1.0)
    channels = (shape_N.clip(-MAX_DEVIATION, MAX_DEVIATION), scale, level, 1.0)
    out = np.stack([np.broadcast_to(channel, values_N.shape) for channel in channels], axis=-2)
    return out.astype(np.float32)


def pack_series(part: object, where: str) -> bytes:
    """A part's value, numbers or `{"values": [numbers]}`, as little-endian float64. Raises InvalidRequestError naming
    the field."""
    if isinstance(part, Mapping):
        part, where = part.get("values"), f"{where}.values"
    return check_series(part, where, where).astype("<f8").tobytes()


def unpack_series(data: bytes) -> np.ndarray:
    return np.frombuffer(data, dtype="<f8")


def _finite(value: Any) -> bool:
    """JSON has whole numbers of any size."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


def _too_long(what: str, length: int, most: int, param: str | None = None) -> InvalidRequestError:
    return InvalidRequestError(
        f"{what} has {length} values; up to {most} can be taken. Send it in parts, or thin it out.", param=param
    )
