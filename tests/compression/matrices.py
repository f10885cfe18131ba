"""Weights and inputs that look like a trained layer's: heavy tails, large columns, inputs that go together."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from ostro.kernels.packed_linear.layout import Scheme

NAME = "layers.3.attention.q"

schemes = st.builds(
    Scheme, bits=st.sampled_from([4, 8]), group_size=st.sampled_from([0, 32, 64]), shifted=st.booleans()
)


def heavy_tailed(outputs: int, inputs: int, seed: int, scale: float = 0.02) -> torch.Tensor:
    """Student's t with 4 degrees of freedom, columns of different sizes. [O, I]"""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(5, outputs, inputs, generator=generator)
    tails_OI = normal[0] / normal[1:].square().mean(0).sqrt()
    return scale * tails_OI * (0.5 * torch.randn(inputs, generator=generator)).exp()


def correlated_inputs(tokens: int, inputs: int, seed: int, spread: float = 0.7) -> torch.Tensor:
    """A quarter as many causes as inputs, noise on top, inputs of different sizes. [T, I]"""
    generator = torch.Generator().manual_seed(seed)
    causes = max(1, inputs // 4)
    mixed_TI = torch.randn(tokens, causes, generator=generator) @ torch.randn(causes, inputs, generator=generator)
    noise_TI = torch.randn(tokens, inputs, generator=generator)
    return (mixed_TI / causes**0.5 + 0.5 * noise_TI) * (spread * torch.randn(inputs, generator=generator)).exp()
