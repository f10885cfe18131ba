"""Rotary frequencies: plain and YaRN, and llama-4 query scaling."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ostro.models.config import DecoderConfig, YarnConfig


class Rotation(NamedTuple):
    """What attention needs of the positions of a batch: cos and sin [T, D/2] and q_scale [T] or None, float32."""

    cos: torch.Tensor
    sin: torch.Tensor
    q_scale: torch.Tensor | None


def yarn_frequencies(theta: float, head_dim: int, yarn: YarnConfig) -> tuple[torch.Tensor, float]:
    """Inverse frequencies [D/2] and the factor on cos and sin (arXiv:2309.00071, sections 3.2 and 3.4)."""
    exponent_d = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    plain_d = 1.0 / theta**exponent_d
    interpolated_d = plain_d / yarn.factor

    def dimension(rotations: float) -> float:
        return (
            head_dim
            * math.log(yarn.original_max_position_embeddings / (rotations * 2 * math.pi))
            / (2 * math.log(theta))
        )

    low, high = dimension(yarn.beta_fast), dimension(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001  # A ramp needs a width.
    ramp_d = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    return interpolated_d * ramp_d + plain_d * (1 - ramp_d), _attention_factor(yarn)


def _attention_factor(yarn: YarnConfig) -> float:
    if yarn.attention_factor is not None:
        return yarn.attention_factor

    def magnitude(scale: float) -> float:
        return 1.0 if yarn.factor <= 1 else 0.1 * scale * math.log(yarn.factor) + 1.0

    if yarn.mscale and yarn.mscale_all_dim:
        return magnitude(yarn.mscale) / magnitude(yarn.mscale_all_dim)
    return magnitude(1.0)


class Rotary:
    """Positions to rotations. Not a module: its table is derived from the config, never loaded."""

    def __init__(self, config: DecoderConfig) -> None:
        if config.yarn is None:
            exponent_d = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu") / config.head_dim
            self._frequencies_d, self._factor = 1.0 / config.rope_theta**exponent_d, 1.0
        else:
            with torch.device("cpu"):
                self._frequencies_d, self._factor = yarn_frequencies(config.rope_theta, config.head_dim, config.yarn)
        if config.unrotated:
            self._frequencies_d[-config.unrotated :] = 0.0
        self._query_scaling = config.query_scaling

    def __call__(self, positions_T: torch.Tensor) -> Rotation:
        if self._frequencies_d.device != positions_T.device:
            self._frequencies_d = self._frequencies_d.to(positions_T.device)
        angles_Td = positions_T.to(torch.float32)[:, None] * self._frequencies_d
        cos_Td, sin_Td = angles_Td.cos(), angles_Td.sin()
        if self._factor != 1.0:
            cos_Td, sin_Td = cos_Td * self._factor, sin_Td * self._factor
        return Rotation(cos_Td, sin_Td, self._scale(positions_T))

    def _scale(self, positions_T: torch.Tensor) -> torch.Tensor | None:
        scaling = self._query_scaling
        if scaling is None:
            return None
        periods_T = torch.floor(positions_T / scaling.original_max_position_embeddings)
        return (1.0 + scaling.beta * torch.log(1.0 + periods_T)).to(torch.float32)
