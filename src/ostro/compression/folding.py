"""Scales of inputs are folded into what makes these inputs, in the type that this is stored in."""

from __future__ import annotations

import torch


def fold(maker: torch.Tensor, scales_I: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """maker / scales, in the maker's own type, and the scales [I] float32 by which weights are then to be multiplied.

    maker: the weight [I] of a norm, or the weight [I, K] of the linear layer whose outputs are the inputs. A norm's
    quotient is rounded, in bfloat16 by up to 1/512. The scales that come back are the quotients of the old and
    the rounded weight, so that the product is as exact as float32. A linear layer has no such single quotient:
    there scales are rounded to powers of two, by which a division is exact.
    """
    if maker.dim() > 1:
        exact_I = scales_I.float().log2().round().exp2()
        return (maker.float() / exact_I[:, None]).to(maker.dtype), exact_I
    folded_I = (maker.float() / scales_I).to(maker.dtype)
    lost_I = (folded_I == 0) | ~folded_I.isfinite()  # Of 0, or beyond what the type holds: such inputs stay.
    folded_I = torch.where(lost_I, maker, folded_I)
    return folded_I, torch.where(lost_I, 1.0, maker.float() / folded_I.float())
