"""Attention of training rows: the products that short ones take equal the fused call, gradients included."""

from __future__ import annotations

import pytest
import torch

from ostro.models.layers import context as module
from ostro.models.layers.context import AttentionSpec, DenseContext
from ostro.models.layers.rotary import Rotation

SPEC = AttentionSpec(layer=0, heads=4, kv_heads=2, head_dim=8, window=0, scale=0.35)


def attend(window: int, segments_T: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows of 24 tokens -> what comes out, and the gradient of what goes in."""
    generator = torch.Generator().manual_seed(3)
    qkv_TE = torch.randn(48, (4 + 2 * 2) * 8, generator=generator, requires_grad=True)
    angles = torch.rand(48, 4, generator=generator)
    spec = AttentionSpec(**{**vars(SPEC), "window": window})
    out_TE = DenseContext(2, segments_T=segments_T).attend(
        spec, qkv_TE * 1.0, Rotation(angles.cos(), angles.sin(), None)
    )
    (out_TE * torch.randn(out_TE.shape, generator=generator)).sum().backward()
    assert qkv_TE.grad is not None
    return out_TE.detach(), qkv_TE.grad


@pytest.mark.parametrize("window", [0, 7])
@pytest.mark.parametrize("packed", [False, True])
def test_short_rows_are_as_long_ones(monkeypatch: pytest.MonkeyPatch, window: int, packed: bool) -> None:
    segments_T = torch.tensor([0] * 9 + [1] * 12 + [-1] * 3 + [0] * 24) if packed else None
    asked: list[int] = []
    real = module._by_products
    monkeypatch.setattr(module, "_by_products", lambda *given: asked.append(1) or real(*given))
    short = attend(window, segments_T)
    assert bool(asked) == (packed or window > 0), "plain causal rows are the fused call's own case"
    asked.clear()
    monkeypatch.setattr(module, "SHORT_ROW", 0)
    fused = attend(window, segments_T)
    assert not asked
    for one, other in zip(short, fused, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_what_only_scores_takes_the_fused_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_by_products", None)
    segments_T = torch.zeros(48, dtype=torch.int64)
    angles = torch.zeros(48, 4)
    with torch.no_grad():
        DenseContext(2, segments_T=segments_T).attend(
            SPEC, torch.randn(48, 64), Rotation(angles.cos(), angles.sin(), None)
        )
