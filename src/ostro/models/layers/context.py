"""What surrounds a forward pass: where keys and values are kept and who may see whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from ostro.kernels.paged_attention.prefill import causal_mask
from ostro.kernels.rope_write import reference
from ostro.models.layers.rotary import Rotation


@dataclass(frozen=True)
class CacheSpec:
    """What a layer keeps for a token. Layers with equal specs share a group with one block table."""

    kv_heads: int
    head_dim: int
    window: int


@dataclass(frozen=True)
class AttentionSpec:
    """One attention layer: its index, its shape, its window (0 sees everything) and its score scale."""

    layer: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int
    scale: float

    @property
    def cache(self) -> CacheSpec:
        return CacheSpec(self.kv_heads, self.head_dim, self.window)


class Context(Protocol):
    """Rotates, stores and attends for one layer.

    modalities_T: what each row is of, as the model numbers its senses, int64; None where all is text.
    """

    modalities_T: torch.Tensor | None

    def attend(self, spec: AttentionSpec, qkv_TE: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        """Stacked projections [T, (H + 2K) * D] (may be overwritten) -> [T, H * D]."""

    def residual(self, branch_TD: torch.Tensor) -> torch.Tensor:
        """What a branch adds to the residual stream: itself, or itself with dropout in training."""


def quick_dropout(x: torch.Tensor, probability: float) -> torch.Tensor:
    """Inverted dropout with the probability rounded to 1/256.

    On a CPU PyTorch draws one number an element, in one thread, which took a third of a training step; here one
    64-bit number serves eight elements.
    """
    threshold = round(probability * 256)
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= threshold
    return x * kept * (256 / (256 - threshold))


# Tokens of a row up to which PyTorch's fused attention takes longer on a CPU, forward and backward, than two products.
SHORT_ROW = 256


def _by_products(
    q_BHSD: torch.Tensor, k_BHSD: torch.Tensor, v_BHSD: torch.Tensor, bias_NSS: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attention as it is written, in the type of what it is given. bias_NSS: 0 where a query sees a key, else -inf, for
    each row and head; every query sees a key."""
    q_NSD, k_NSD, v_NSD = (x_BHSD.flatten(0, 1) for x_BHSD in (q_BHSD, k_BHSD, v_BHSD))
    with torch.autocast("cpu", enabled=False):
        scores_NSS = torch.baddbmm(bias_NSS, q_NSD * scale, k_NSD.transpose(1, 2))
        return torch.bmm(scores_NSS.softmax(-1), v_NSD).view(q_BHSD.shape)


class DenseContext:
    """Rows of equal length, causal within a row, nothing cached, differentiable: training and scoring.

    batch: rows; the flat batch [T] is their concatenation, T = batch * length.
    dropout: probability on every residual branch.
    segments_T: ids of the documents that are packed into the rows; a token sees its own document only.
    """

    def __init__(
        self,
        batch: int = 1,
        dropout: float = 0.0,
        segments_T: torch.Tensor | None = None,
        modalities_T: torch.Tensor | None = None,
    ) -> None:
        self.modalities_T = modalities_T
        self.batch = batch
        self.dropout = dropout
        self._segments_T = segments_T
        self._masks: dict[int, torch.Tensor | None] = {}
        self._biases: dict[tuple[int, int, torch.dtype], torch.Tensor] = {}

    def attend(self, spec: AttentionSpec, qkv_TE: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        q_THD, k_TKD, v_TKD = reference.split_rotate(qkv_TE, *rotation, spec.heads, spec.kv_heads)
        length, group = qkv_TE.shape[0] // self.batch, spec.heads // spec.kv_heads

        def rows(x_THD: torch.Tensor) -> torch.Tensor:
            return x_THD.reshape(self.batch, length, *x_THD.shape[1:]).transpose(1, 2)

        q_BHSD = rows(q_THD)
        k_BHSD = rows(k_TKD).repeat_interleave(group, dim=1)
        v_BHSD = rows(v_TKD).repeat_interleave(group, dim=1)
        mask = self._mask(length, spec.window, qkv_TE.device)
        if mask is not None and length <= SHORT_ROW and qkv_TE.requires_grad and qkv_TE.device.type == "cpu":
            bias_NSS = self._bias(mask, spec, qkv_TE.dtype)
            out_BHSD = _by_products(q_BHSD, k_BHSD, v_BHSD, bias_NSS, spec.scale)
        else:
            out_BHSD = F.scaled_dot_product_attention(
                q_BHSD, k_BHSD, v_BHSD, attn_mask=mask, is_causal=mask is None, scale=spec.scale
            )
        return out_BHSD.transpose(1, 2).reshape(qkv_TE.shape[0], -1)

    def residual(self, branch_TD: torch.Tensor) -> torch.Tensor:
        return quick_dropout(branch_TD, self.dropout) if self.dropout else branch_TD

    def _bias(self, mask: torch.Tensor, spec: AttentionSpec, dtype: torch.dtype) -> torch.Tensor:
        """The mask as what is added to scores, [B * H, S, S], the same for all layers."""
        key = (spec.window, spec.heads, dtype)
        if key not in self._biases:
            bias = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, -torch.inf)
            length = mask.shape[-1]
            self._biases[key] = bias.expand(self.batch, spec.heads, length, length).flatten(0, 1)
        return self._biases[key]

    def _mask(self, length: int, window: int, device: torch.device) -> torch.Tensor | None:
        """Who sees whom, [S, S] or [B, 1, S, S]; None where plain causal attention is all there is."""
        if window not in self._masks:
            mask = causal_mask(0, length, 0, window, device) if 0 < window < length else None
            if self._segments_T is not None:
                segments_BS = self._segments_T.view(self.batch, length)
                same_BSS = segments_BS[:, :, None] == segments_BS[:, None, :]
                mask = (same_BSS & causal_mask(0, length, 0, window, device))[:, None]
            self._masks[window] = mask
        return self._masks[window]
