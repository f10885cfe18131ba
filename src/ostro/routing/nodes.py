"""Which node of several answers a request, in which order the others are tried, and why. Pure: no network, no clock.

A node is eligible where it can answer at all; among those that are, the least loaded one is asked, but one that has
answered the same beginning before may be somewhat busier. Low-priority requests leave busy accelerators to others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from ostro.core.errors import InvalidRequestError, ModelNotFoundError, NotReadyError, OstroError

ACCELERATOR, CPU = "accelerator", "cpu"


@dataclass(frozen=True, kw_only=True)
class ModelView:
    """What a node can do by a model's name; see `gateway.config.ModelSettings`."""

    modalities: Collection[str] = ()
    context: int | None = None
    tools: bool = True


@dataclass(frozen=True, kw_only=True)
class NodeView:
    """A node as it is now. load: from 0 to 1, the largest of what its parts are busy with. why_not: what keeps it from
    being asked at all, None where nothing does. cost: micro-dollars that the call would cost whoever runs the node."""

    name: str
    models: dict[str, ModelView]
    device: str = CPU
    region: str | None = None
    load: float = 0.0
    why_not: str | None = None
    retry_after_s: float = 1.0
    cost: int = 0


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What a request needs. tokens: of prompt and answer, at the least; 0 where nobody counted. region: where its data
    must stay. beginning: a digest of how its prompt begins. priority: below 0 gives way on busy accelerators."""

    model: str
    modalities: frozenset[str] = frozenset()
    tokens: int = 0
    tools: bool = False
    region: str | None = None
    beginning: bytes = b""
    priority: int = 0


@dataclass(frozen=True)
class Choice:
    """A node to ask. reason: why it stands in this place."""

    node: str
    reason: str


@dataclass
class Spill:
    """Whether low-priority requests leave the accelerators: from `above` on until their load is under `below`."""

    above: float = 0.8
    below: float = 0.7
    on: bool = field(default=False, init=False)

    def update(self, views: Collection[NodeView]) -> bool:
        """By the mean load of the accelerators that can be asked; where there is none, nothing spills."""
        loads = [view.load for view in views if view.device == ACCELERATOR and view.why_not is None]
        mean = sum(loads) / len(loads) if loads else 0.0
        self.on = bool(loads) and (mean >= self.above or (self.on and mean >= self.below))
        return self.on


def rank(ask: Ask, views: Sequence[NodeView], *, spilling: bool, affinity: float = 0.25) -> list[Choice]:
    """The nodes to ask, the best first. affinity: how much busier than the least loaded one a node may be that
    has the request's beginning in its cache.

    Raises ModelNotFoundError where no node has the model, InvalidRequestError where those that do cannot answer this
    request, and NotReadyError where those that could are away or full.
    """
    able = _able(ask, views)
    here = [view for view in able if view.why_not is None]
    if not here:
        raise NotReadyError(
            f"No node can answer for '{ask.model}' now: "
            + "; ".join(f"{view.name} {view.why_not}" for view in able)
            + ". Try again later.",
            retry_after=min(view.retry_after_s for view in able),
        )
    yields = spilling and ask.priority < 0 and any(view.device == CPU for view in here)
    least = min(view.load for view in here)
    near = [view for view in here if view.load <= least + affinity]
    # The same beginning goes to the same node, whichever gateway decides, and to another one only while it is away.
    home = max(near, key=lambda view: _weight(ask.beginning, view.name)).name if ask.beginning else None

    def order(view: NodeView) -> tuple[bool, bool, float, int, str]:
        return (yields and view.device != CPU, view.name != home, view.load, view.cost, view.name)

    ranked = sorted(here, key=order)
    return [Choice(view.name, _reason(view, home, yields, index)) for index, view in enumerate(ranked)]


def _able(ask: Ask, views: Sequence[NodeView]) -> list[NodeView]:
    found = [view for view in views if ask.model in view.models]
    if not found:
        raise ModelNotFoundError(
            f"The model '{ask.model}' is not served here. `GET /v1/models` lists what is.", param="model"
        )
    refusals: list[OstroError] = []
    able = []
    for view in found:
        refusal = _refusal(ask, view)
        if refusal is None:
            able.append(view)
        else:
            refusals.append(refusal)
    if not able:
        raise refusals[0]
    return able


def _refusal(ask: Ask, view: NodeView) -> InvalidRequestError | None:
    model = view.models[ask.model]
    if ask.region is not None and view.region != ask.region:
        return InvalidRequestError(
            f"Data of this key stays in the region '{ask.region}', and no node there serves '{ask.model}'.",
            param="model",
            code="no_node_in_region",
        )
    missing = sorted(ask.modalities.difference(model.modalities))
    if missing:
        return InvalidRequestError(
            f"'{ask.model}' takes no {missing[0]} here. Choose another model, or leave it out.", param="messages"
        )
    if ask.tools and not model.tools:
        return InvalidRequestError(f"'{ask.model}' calls no tools here. Leave out 'tools'.", param="tools")
    if model.context is not None and ask.tokens > model.context:
        return InvalidRequestError(
            f"This model's maximum context length is {model.context} tokens, and the request comes to at least "
            f"{ask.tokens}. Shorten the prompt or lower max_tokens.",
            param="messages",
            code="context_length_exceeded",
        )
    return None


def _reason(view: NodeView, home: str | None, yields: bool, index: int) -> str:
    if index:
        return "those before it could not answer"
    if yields:
        return "accelerators are busy, and this request has a low priority"
    if view.name == home:
        return "it has the beginning of this prompt, or will have"
    return f"the least loaded ({view.load:.0%})"


def _weight(beginning: bytes, node: str) -> bytes:
    """Rendezvous hashing (Thaler and Ravishankar 1998): a node that comes or goes moves its own beginnings alone."""
    return hashlib.blake2b(beginning + node.encode(), digest_size=8).digest()
