"""Which node is asked: against the rules said one by one, on nodes made up at random."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostro.core.errors import InvalidRequestError, ModelNotFoundError, NotReadyError, OstroError
from ostro.routing.nodes import ACCELERATOR, CPU, Ask, ModelView, NodeView, Spill, rank

MODELS = st.fixed_dictionaries(
    {},
    optional={
        name: st.builds(
            ModelView,
            modalities=st.frozensets(st.sampled_from(["image", "audio"])),
            context=st.none() | st.integers(1, 100),
            tools=st.booleans(),
        )
        for name in ("a", "b")
    },
)
VIEWS = st.lists(
    st.builds(
        NodeView,
        name=st.sampled_from([f"n{index}" for index in range(8)]),
        models=MODELS,
        device=st.sampled_from([ACCELERATOR, CPU]),
        region=st.sampled_from([None, "eu", "us"]),
        load=st.floats(0, 1),
        why_not=st.sampled_from([None, None, "is away"]),
        cost=st.integers(0, 3),
    ),
    max_size=8,
    unique_by=lambda view: view.name,
)
ASKS = st.builds(
    Ask,
    model=st.sampled_from(["a", "b"]),
    modalities=st.frozensets(st.sampled_from(["image", "audio"]), max_size=1),
    tokens=st.integers(0, 120),
    tools=st.booleans(),
    region=st.sampled_from([None, "eu"]),
    beginning=st.sampled_from([b"", b"x", b"y"]),
    priority=st.integers(-1, 1),
)


def can(ask: Ask, view: NodeView) -> bool:
    model = view.models.get(ask.model)
    return (
        model is not None
        and (ask.region is None or ask.region == view.region)
        and ask.modalities <= set(model.modalities)
        and (model.tools or not ask.tools)
        and (model.context is None or ask.tokens <= model.context)
    )


@given(ASKS, VIEWS, st.booleans(), st.floats(0, 0.5))
def test_those_that_can_are_asked_and_no_other(
    ask: Ask, views: list[NodeView], spilling: bool, affinity: float
) -> None:
    able = {view.name: view for view in views if can(ask, view)}
    here = {name: view for name, view in able.items() if view.why_not is None}
    if not here:
        served = any(ask.model in view.models for view in views)
        expected: type[OstroError] = NotReadyError if able else InvalidRequestError if served else ModelNotFoundError
        with pytest.raises(expected):
            rank(ask, views, spilling=spilling, affinity=affinity)
        return
    found = rank(ask, views, spilling=spilling, affinity=affinity)
    assert sorted(choice.node for choice in found) == sorted(here)
    assert all(choice.reason for choice in found)
    first = here[found[0].node]
    loads = [view.load for view in here.values()]
    if spilling and ask.priority < 0 and any(view.device == CPU for view in here.values()):
        assert first.device == CPU
    elif ask.beginning:
        assert first.load <= min(loads) + affinity
    else:
        assert first.load == min(loads)


def views(**loads: float) -> list[NodeView]:
    return [NodeView(name=name, models={"a": ModelView()}, load=load) for name, load in loads.items()]


def test_a_beginning_has_a_home_and_moves_only_with_it() -> None:
    nodes = views(x=0.0, y=0.0, z=0.0)
    homes = {}
    for number in range(300):
        ask = Ask(model="a", beginning=str(number).encode())
        homes[number] = rank(ask, nodes, spilling=False)[0].node
        assert rank(ask, nodes[::-1], spilling=False)[0].node == homes[number]
    assert min(Counter(homes.values()).values()) > 60
    for number, home in homes.items():
        ask = Ask(model="a", beginning=str(number).encode())
        left = rank(ask, [view for view in nodes if view.name != "x"], spilling=False)[0].node
        assert left == home or home == "x", "who was not at x stays"


def test_a_busy_home_is_left_where_it_is_too_busy() -> None:
    ask = Ask(model="a", beginning=b"some")
    home = rank(ask, views(x=0.0, y=0.0), spilling=False)[0].node
    other = "y" if home == "x" else "x"
    assert rank(ask, views(**{home: 0.2, other: 0.0}), spilling=False)[0].node == home
    assert rank(ask, views(**{home: 0.3, other: 0.0}), spilling=False)[0].node == other


def test_the_cheaper_of_two_that_are_as_busy_is_asked() -> None:
    nodes = [
        NodeView(name="a", models={"m": ModelView()}, cost=5),
        NodeView(name="b", models={"m": ModelView()}, cost=1),
    ]
    assert rank(Ask(model="m"), nodes, spilling=False)[0].node == "b"


def test_why_nobody_answers_is_told() -> None:
    away = [NodeView(name="x", models={"a": ModelView()}, why_not="is full", retry_after_s=3.0)]
    with pytest.raises(NotReadyError, match="x is full") as caught:
        rank(Ask(model="a"), away, spilling=False)
    assert caught.value.retry_after == 3.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_spilling_goes_on_until_the_lower_mark(loads: list[float]) -> None:
    spill, on = Spill(above=0.8, below=0.7), False
    for load in loads:
        on = load >= 0.8 or (on and load >= 0.7)
        assert spill.update([NodeView(name="x", models={}, device=ACCELERATOR, load=load)]) is on


def test_cpu_nodes_alone_spill_nothing() -> None:
    assert not Spill().update([NodeView(name="x", models={}, device=CPU, load=1.0)])


def test_nodes_that_are_away_do_not_count_as_idle() -> None:
    def made(**fields: Any) -> NodeView:
        return NodeView(models={}, device=ACCELERATOR, **fields)

    spill = Spill()
    assert spill.update([made(name="x", load=0.9), made(name="y", load=0.0, why_not="is away")])
