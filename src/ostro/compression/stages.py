"""Where a block's products get their inputs from, and so what scales of inputs can be folded into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ostro.compression import awq, smoothquant
from ostro.compression.folding import fold
from ostro.compression.recipe import Scaling
from ostro.compression.sampling import sampled_outputs
from ostro.compression.statistics import InputStatistics
from ostro.kernels.packed_linear.layout import Scheme
from ostro.models.layers.decoder import Block, FeedForward
from ostro.models.layers.linear import Linear


@dataclass(frozen=True)
class Stage:
    """One layer whose slices read the same inputs. maker: the parameter, a view, that makes the inputs: a norm's
    weight [I], or rows [I', K] of a projection; spread: from I' rows to I inputs, and back (their means)."""

    target: str
    layer: Linear
    maker: torch.Tensor
    spread: Callable[[torch.Tensor], torch.Tensor] = lambda scales: scales
    gather: Callable[[torch.Tensor], torch.Tensor] = lambda scales: scales


def stages(block: Block, target: str) -> list[Stage]:
    """The four of a dense block, later ones first: their makers are then scaled before they are rounded."""
    attention, feed_forward = block.attention, block.feed_forward
    assert isinstance(feed_forward, FeedForward), "quantise.py asks first"
    spec = attention.spec
    group = spec.heads // spec.kv_heads

    def spread(scales_V: torch.Tensor) -> torch.Tensor:
        """Query heads of a group read the same value head."""
        return scales_V.view(spec.kv_heads, 1, -1).expand(-1, group, -1).reshape(-1)

    def gather(scales_I: torch.Tensor) -> torch.Tensor:
        return scales_I.view(spec.kv_heads, group, -1).log().mean(1).exp().reshape(-1)

    return [
        Stage(f"{target}.feed_forward.down", feed_forward.down, feed_forward.gate_up.part("up")),
        Stage(f"{target}.feed_forward.gate_up", feed_forward.gate_up, block.feed_forward_norm.weight.data),
        Stage(f"{target}.attention.output", attention.output, attention.qkv.part("v"), spread, gather),
        Stage(f"{target}.attention.qkv", attention.qkv, block.attention_norm.weight.data),
    ]


def scale_inputs(stage: Stage, schemes: Sequence[Scheme | None], seen: InputStatistics, scaling: Scaling) -> bool:
    """Find scales for the inputs of a stage, fold them into its maker and its weights, both in place.

    schemes: of the stage's slices, in their order. Returns whether there was anything to gain.
    """
    matrices = [stage.layer.part(name) for name in stage.layer.slices]
    chosen = [(matrix, scheme) for matrix, scheme in zip(matrices, schemes, strict=True) if scheme is not None]
    if scaling == "smoothquant":
        chosen = [(matrix, scheme) for matrix, scheme in chosen if scheme.bits == 8]
    if not chosen:
        return False
    weights, scheme = [matrix for matrix, _ in chosen], min((scheme for _, scheme in chosen), key=_coarseness)
    inputs_TI = seen.sample
    if scaling == "smoothquant":
        scales_I = smoothquant.search_smoothing(weights, inputs_TI, scheme, name=stage.target)
        measure = smoothquant.int8_error
    else:
        scales_I = awq.search_scales(weights, inputs_TI, scheme, name=stage.target)
        measure = awq.rounding_error
    folded, exact = fold(stage.maker, stage.gather(scales_I))
    exact_I = stage.spread(exact)
    # What could be folded is not what was found: powers of two, means over heads. It must still be worth it.
    rows_NI = sampled_outputs(weights)
    plain = measure(rows_NI, inputs_TI, torch.ones_like(exact_I), scheme, stage.target)
    if not measure(rows_NI, inputs_TI, exact_I, scheme, stage.target) < plain:
        return False
    stage.maker.copy_(folded)
    for matrix in matrices:
        matrix.mul_(exact_I)
    seen.scale(exact_I)
    return True


def _coarseness(scheme: Scheme) -> tuple[int, int]:
    """Rising with quality: the coarsest scheme is what scales are chosen for."""
    return scheme.bits, -(scheme.group_size or 1 << 30)
