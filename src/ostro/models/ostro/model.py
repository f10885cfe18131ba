"""The unified decoder: the dense one, and what of adapters, routing, gate and heads its config has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from ostro.core.request import LabelScore
from ostro.kernels.linear import linear
from ostro.kernels.silu_mul import silu_mul
from ostro.models.config import DecoderConfig
from ostro.models.layers.context import Context
from ostro.models.layers.decoder import Attention, Block, Decoder, FeedForward
from ostro.models.layers.linear import Linear
from ostro.models.layers.norm import RMSNorm
from ostro.models.layers.rotary import Rotation
from ostro.models.ostro.config import MODALITIES, TEXT, GateConfig, OstroConfig

# Of each group of labels so many are told, the most probable ones.
MOST_LABELS = 5


@dataclass(frozen=True)
class Levels:
    """How many rows run more than the first level. counts[i]: those of level i + 1 and above. order: the rows from the
    highest level to the lowest, and back: where each of them is in that; both None where all rows have one level."""

    counts: tuple[int, ...]
    order_T: torch.Tensor | None
    back_T: torch.Tensor | None

    @classmethod
    def of(cls, levels_T: torch.Tensor, count: int) -> Levels:
        """levels_T: 0 to count - 1."""
        rows = len(levels_T)
        if rows == 1:  # One token at a time: what follows costs as much as a layer of a small model.
            level = int(levels_T)
            return cls((1,) * level + (0,) * (count - 1 - level), None, None)
        above_LT = levels_T >= torch.arange(1, count, device=levels_T.device)[:, None]
        counts = tuple(above_LT.sum(1).tolist())
        if all(found in (0, rows) for found in counts):
            return cls(counts, None, None)
        order_T = levels_T.argsort(descending=True, stable=True)
        return cls(counts, order_T, order_T.argsort())


class NestedFeedForward(nn.Module):
    """SwiGLU in segments of channels: a token's level says how many of them run. All of them are the dense layer, whose
    channels are those of the segments one after the other, because each channel adds to the output by itself."""

    def __init__(self, config: DecoderConfig, widths: Sequence[int]) -> None:
        super().__init__()
        self._sizes = [after - before for before, after in zip((0, *widths), widths, strict=False)]
        self.segments = nn.ModuleList(FeedForward(config, size) for size in self._sizes)
        # Weights of all channels: [2 F, D], gate and up of the first segment, then of the second; and [F, D], down.
        self._prefixes: tuple[torch.Tensor, torch.Tensor] | None = None

    def lay_out(self) -> None:
        """Put the segments' weights side by side in memory, where they are dense: rows that all have one level then run
        as one product over the first channels. Weights may change afterwards, but not be replaced by others."""
        segments = [one for one in self.segments if isinstance(one, FeedForward)]
        weights = [(one.gate_up.weight, one.down.weight) for one in segments]
        dense = [(gate_up, down) for gate_up, down in weights if gate_up is not None and down is not None]
        if len(dense) < len(self.segments):
            return
        gate_up_2FD = torch.cat([gate_up.data for gate_up, _ in dense])
        down_FD = torch.cat([down.data.T for _, down in dense])
        start = 0
        for (gate_up, down), size in zip(dense, self._sizes, strict=True):
            gate_up.data = gate_up_2FD[2 * start : 2 * (start + size)]
            down.data = down_FD[start : start + size].T
            start += size
        self._prefixes = gate_up_2FD, down_FD

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> NestedFeedForward:
        self._prefixes = None  # `Module.to` and others of its kind replace the weights
        return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]  # torch has no hints here

    def forward(self, x_TD: torch.Tensor, levels: Levels | None) -> torch.Tensor:
        """levels: None runs all channels for every row."""
        counts = (len(x_TD),) * (len(self.segments) - 1) if levels is None else levels.counts
        if levels is None or levels.order_T is None or levels.back_T is None:
            return self._alike(x_TD, sum(count > 0 for count in counts) + 1)
        x_TD = x_TD.index_select(0, levels.order_T)
        if self._running_prefixes is None:
            out_TD: torch.Tensor = self.segments[0](x_TD)
            for count, segment in zip(counts, self.segments[1:], strict=True):
                if count:
                    out_TD[:count] += segment(x_TD[:count])
        else:
            bounds = (0, *reversed(counts), len(x_TD))  # of the highest level, then of the next
            spans = zip(bounds, bounds[1:], range(len(self.segments), 0, -1), strict=False)
            out_TD = torch.cat([self._alike(x_TD[a:b], count) for a, b, count in spans if b > a])
        return out_TD.index_select(0, levels.back_T)

    @property
    def _running_prefixes(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        # Gradients belong to the segments' own weights.
        return None if torch.is_grad_enabled() else self._prefixes

    def _alike(self, x_TD: torch.Tensor, count: int) -> torch.Tensor:
        """The first `count` segments, for all rows."""
        if self._running_prefixes is not None:
            gate_up_2FD, down_FD = self._running_prefixes
            sizes = self._sizes[:count]
            width = sum(sizes)
            return linear(silu_mul(linear(x_TD, gate_up_2FD[: 2 * width]), sizes), down_FD[:width].T)
        out_TD: torch.Tensor = self.segments[0](x_TD)
        for segment in self.segments[1:count]:
            out_TD = out_TD + segment(x_TD)
        return out_TD


class RoutedAttention(Attention):
    """Attention whose scores have a learned part for the sense of what is seen, made from who looks.

    The weight of a key of sense m is multiplied by exp(route_m(x)), route being a linear function of the query's
    stream. Keys carry their sense as one-hot numbers in dimensions of the head that rotary embedding leaves alone, and
    queries the route in the same places: the product of both is the added score. So caches, kernels and windows are
    those of plain attention.
    """

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.router = Linear(config.hidden_size, config.num_heads * len(MODALITIES))
        self.watch: list[torch.Tensor] | None = None

    def forward(self, x_TD: torch.Tensor, rotation: Rotation, context: Context) -> torch.Tensor:
        spec, count = self.spec, len(MODALITIES)
        qkv_TE = self.qkv(x_TD)
        heads_THC = qkv_TE.view(len(x_TD), spec.heads + 2 * spec.kv_heads, spec.head_dim)
        routes_THM = self.router(x_TD).view(len(x_TD), spec.heads, count)
        senses_TM = modalities_of(context, len(x_TD), x_TD.device)[:, None] == torch.arange(count, device=x_TD.device)
        if self.watch is not None:
            self.watch.append(routes_THM.float().exp().mean(1))
        # The last pairs of both halves of a head are those that rotary embedding leaves alone.
        places_TH2P = heads_THC.view(*heads_THC.shape[:2], 2, spec.head_dim // 2)[..., -count // 2 :]
        places_TH2P[:, : spec.heads] = (routes_THM / spec.scale).view(-1, spec.heads, 2, count // 2)
        places_TH2P[:, spec.heads : spec.heads + spec.kv_heads] = senses_TM.view(-1, 1, 2, count // 2)
        out_TD: torch.Tensor = self.output(context.attend(spec, qkv_TE, rotation))
        return out_TD


class UnifiedBlock(Block):
    """A block with routed attention, or nested channels, or both."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__(config, layer)
        assert isinstance(config, OstroConfig)
        if config.routing:
            self.attention = RoutedAttention(config, layer)
        if config.gate is not None:
            self.feed_forward = NestedFeedForward(config, config.gate.widths)

    def run(
        self,
        x_TD: torch.Tensor,
        branch_TD: torch.Tensor | None,
        rotation: Rotation,
        context: Context,
        levels: Levels | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `forward` of the dense block."""
        if not isinstance(self.feed_forward, NestedFeedForward):
            return self(x_TD, branch_TD, rotation, context)  # type: ignore[no-any-return]  # Module's call has no type
        if branch_TD is None:
            normed_TD = self.attention_norm(x_TD)
        else:
            x_TD, normed_TD = self.attention_norm.add(x_TD, branch_TD)
        branch_TD = context.residual(self.attention(normed_TD, rotation, context))
        x_TD, normed_TD = self.feed_forward_norm.add(x_TD, branch_TD)
        return x_TD, context.residual(self.feed_forward(normed_TD, levels))


class ModalAdapter(nn.Module):
    """x + up(silu(down(norm(x)))): a residual bottleneck (Houlsby et al. 2019, arXiv:1902.00751)."""

    def __init__(self, config: DecoderConfig, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.down = Linear(config.hidden_size, width)
        self.up = Linear(width, config.hidden_size)

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        out_TD: torch.Tensor = self.up(F.silu(self.down(self.norm(x_TD))))
        return out_TD


def levels_of(scores_TL: torch.Tensor, thresholds: Sequence[float]) -> torch.Tensor:
    """Levels [T]: how many thresholds in a row the scores are above."""
    return (scores_TL > scores_TL.new_tensor(thresholds)).long().cumprod(1).sum(1)


class WidthGate(nn.Module):
    """Scores of how much a token would gain from more channels; thresholds, which are calibrated, make levels of them.

    It reads what a token and those before it have become, so levels are causal and the same in prefill and decoding.
    """

    def __init__(self, config: DecoderConfig, gate: GateConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.score = Linear(config.hidden_size, len(gate.widths) - 1, bias=True)
        self.thresholds = gate.thresholds

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        """Streams [T, D] -> scores [T, levels - 1], float32."""
        return self.score(self.norm(x_TD)).float()  # type: ignore[no-any-return]  # a Linear

    def levels(self, scores_TL: torch.Tensor) -> torch.Tensor:
        """Levels [T]: how many thresholds in a row the scores are above."""
        return levels_of(scores_TL, self.thresholds)


class UnifiedDecoder(Decoder):
    """With everything switched off it is the dense decoder, by the same code."""

    senses: ClassVar[tuple[str, ...]] = MODALITIES

    def __init__(self, config: DecoderConfig) -> None:
        assert isinstance(config, OstroConfig)
        super().__init__(config)
        self.unified = config
        self.adapters = nn.ModuleDict()
        if config.adapter is not None:
            width = config.adapter.width
            self.adapters.update({one.modality: ModalAdapter(config, width) for one in config.encoders})
        self.gate = None if config.gate is None else WidthGate(config, config.gate)
        count = sum(len(group.labels) + 1 for group in config.labels)
        self.label_head = Linear(config.hidden_size, count, bias=True) if count else None
        self.embedding_head = Linear(config.hidden_size, config.embedding) if config.embedding else None

    def make_block(self, config: DecoderConfig, layer: int) -> Block:
        return UnifiedBlock(config, layer)

    def lay_out(self) -> None:
        for block in self.layers:
            if isinstance(block.feed_forward, NestedFeedForward):
                block.feed_forward.lay_out()

    def forward(
        self,
        inputs: torch.Tensor,
        positions_T: torch.Tensor,
        context: Context,
        layers: range | None = None,
        *,
        levels_T: torch.Tensor | None = None,
        scores: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """As the dense decoder's. levels_T: takes the gate's place, from the first layer on; a stage that begins behind
        the gate needs it. scores: is given the gate's scores [T, levels - 1], where there is a gate."""
        layers = layers or range(len(self.layers))
        config = self.unified
        rotation = self.rotary(positions_T)
        x_TD = inputs.clone() if inputs.is_floating_point() else self.embed(inputs, self.dtype)
        modalities_T = modalities_of(context, len(x_TD), x_TD.device)
        levels = self._first_levels(modalities_T) if levels_T is None else self._levels(levels_T)
        branch_TD: torch.Tensor | None = None
        for index in layers:
            if self.gate is not None and config.gate is not None and index == config.gate.layer:
                x_TD, branch_TD = _joined(x_TD, branch_TD)
                if scores is not None or levels_T is None:
                    # Levels have no gradient, and what the scores are fitted to must not move the stream.
                    scores_TL = self.gate(x_TD.detach())
                    if scores is not None:
                        scores.append(scores_TL)
                    if levels_T is None:
                        levels = self._gated(scores_TL, modalities_T)
            if config.adapter is not None and index == config.adapter.layer:
                x_TD, branch_TD = _joined(x_TD, branch_TD)
                if context.modalities_T is not None:  # Text has no adapter; a GPU would be waited for to see that.
                    x_TD = self._adapted(x_TD, modalities_T)
            block = self.layers[index]
            assert isinstance(block, UnifiedBlock)
            x_TD, branch_TD = block.run(x_TD, branch_TD, rotation, context, levels)
        assert branch_TD is not None
        if layers.stop < len(self.layers):
            return x_TD + branch_TD
        return self.norm.add(x_TD, branch_TD)[1]

    def label_logits(self, hidden_TD: torch.Tensor) -> list[torch.Tensor]:
        """For each group of labels [T, labels + 1], the last of them for none of the group."""
        if self.label_head is None:
            return []
        sizes = [len(group.labels) + 1 for group in self.unified.labels]
        return list(torch.split(self.label_head(hidden_TD), sizes, dim=1))

    def label_scores(self, hidden_D: torch.Tensor) -> list[LabelScore]:
        """The labels of every group of which one rather holds than none, the most probable first."""
        found: list[LabelScore] = []
        for group, logits_TL in zip(self.unified.labels, self.label_logits(hidden_D[None]), strict=True):
            scores_L = logits_TL[0].float().softmax(0)
            if scores_L[-1] < 0.5:
                best = scores_L[:-1].topk(min(MOST_LABELS, len(group.labels)))
                pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
                found += [LabelScore(group.labels[index], score, group.name) for index, score in pairs]
        return sorted(found, key=lambda one: -one.score)

    @contextmanager
    def watching_routes(self) -> Iterator[list[torch.Tensor]]:
        routes: list[torch.Tensor] = []
        routers = [module for module in self.modules() if isinstance(module, RoutedAttention)]
        for router in routers:
            router.watch = routes
        try:
            yield routes
        finally:
            for router in routers:
                router.watch = None

    def pooled(self, vector_D: torch.Tensor) -> torch.Tensor:
        """Into the space that all senses share, where the model has one."""
        if self.embedding_head is None:
            return vector_D
        out_E: torch.Tensor = self.embedding_head(vector_D[None].to(self.dtype))[0]
        return out_E.float()

    def _first_levels(self, modalities_T: torch.Tensor) -> Levels | None:
        """Before the gate: text runs the first level, everything else all channels."""
        gate = self.unified.gate
        return None if gate is None else self._levels((modalities_T != TEXT).long() * (len(gate.widths) - 1))

    def _gated(self, scores_TL: torch.Tensor, modalities_T: torch.Tensor) -> Levels | None:
        assert self.gate is not None
        top = scores_TL.shape[1]
        return self._levels(torch.where(modalities_T == TEXT, self.gate.levels(scores_TL), top))

    def _levels(self, levels_T: torch.Tensor) -> Levels | None:
        gate = self.unified.gate
        return None if gate is None else Levels.of(levels_T, len(gate.widths))

    def _adapted(self, x_TD: torch.Tensor, modalities_T: torch.Tensor) -> torch.Tensor:
        for name, adapter in self.adapters.items():
            rows_N = (modalities_T == MODALITIES.index(name)).nonzero()[:, 0]
            if len(rows_N):
                x_TD = x_TD.index_add(0, rows_N, adapter(x_TD[rows_N]).to(x_TD.dtype))
        return x_TD


def modalities_of(context: Context, count: int, device: torch.device) -> torch.Tensor:
    """The sense of each row, [T] int64; all are text where the context says nothing."""
    found = context.modalities_T
    return torch.zeros(count, dtype=torch.int64, device=device) if found is None else found


def _joined(x_TD: torch.Tensor, branch_TD: torch.Tensor | None) -> tuple[torch.Tensor, None]:
    return (x_TD if branch_TD is None else x_TD + branch_TD), None


MODEL = UnifiedDecoder
