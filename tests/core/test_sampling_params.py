"""SamplingParams: the bounds of every field, each refused under its own name."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostro.core.errors import InvalidRequestError
from ostro.core.sampling import (
    MAX_BANNED_TOKEN_IDS,
    MAX_COUNT,
    MAX_LOGIT_BIAS,
    MAX_LOGPROBS,
    MAX_N,
    MAX_STOP_LENGTH,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKEN_IDS,
    SEED_BOUND,
    SamplingParams,
)

ACCEPTED: dict[str, list[Any]] = {
    "max_tokens": [None, 1, MAX_COUNT],
    "min_tokens": [0, 5],
    "temperature": [0, 0.0, 1, 100.0, 5e-324],
    "top_p": [1, 1.0, 1e-9],
    "top_k": [0, 1, MAX_COUNT],
    "min_p": [0, 0.0, 1.0],
    "presence_penalty": [-2, 2.0],
    "frequency_penalty": [-2.0, 2],
    "repetition_penalty": [0.01, 1, 100.0],
    "logit_bias": [{}, {0: 100.0, 7: -100}, dict.fromkeys(range(MAX_LOGIT_BIAS), 0.0)],
    "seed": [None, 0, -SEED_BOUND, SEED_BOUND - 1],
    "logprobs": [None, 0, MAX_LOGPROBS],
    "n": [1, MAX_N],
    "stop": [[], ["a"], ["x" * MAX_STOP_LENGTH] * MAX_STOP_STRINGS],
    "stop_token_ids": [[], [0], list(range(MAX_STOP_TOKEN_IDS))],
    "ignore_eos": [True, False],
    "banned_token_ids": [[], [0], list(range(MAX_BANNED_TOKEN_IDS))],
    "constraint": [None, "{}"],
    "prompt_logprobs": [None, 0, MAX_LOGPROBS],
}
NOT_NUMBERS: list[Any] = ["1", True, None, [], math.nan, math.inf]
NOT_COUNTS: list[Any] = ["1", True, 1.0, 1.5, [], -1, MAX_COUNT + 1, 10**30]
REFUSED: dict[str, list[Any]] = {
    "max_tokens": [*NOT_COUNTS, 0],
    "min_tokens": [*NOT_COUNTS, None],
    "temperature": [*NOT_NUMBERS, -0.1, 100.1, -math.inf],
    "top_p": [*NOT_NUMBERS, 0, 0.0, -0.1, 1.01],
    "top_k": [*NOT_COUNTS, None],
    "min_p": [*NOT_NUMBERS, -0.01, 1.01],
    "presence_penalty": [*NOT_NUMBERS, -2.01, 2.01],
    "frequency_penalty": [*NOT_NUMBERS, -2.01, 2.01],
    "repetition_penalty": [*NOT_NUMBERS, 0, -1.0, 100.5],
    "logit_bias": [
        {0: 100.5},
        {0: -101},
        {0: math.nan},
        {0: "1"},
        {0: True},
        {-1: 0.0},
        {"0": 0.0},
        {1.5: 0.0},
        {MAX_COUNT + 1: 0.0},
        dict.fromkeys(range(MAX_LOGIT_BIAS + 1), 0.0),
    ],
    "seed": ["1", True, 1.0, SEED_BOUND, -SEED_BOUND - 1],
    "logprobs": ["1", True, 1.0, -1, MAX_LOGPROBS + 1],
    "n": [*NOT_COUNTS, 0, MAX_N + 1, None],
    "stop": ["text", [""], ["x" * (MAX_STOP_LENGTH + 1)], ["a"] * (MAX_STOP_STRINGS + 1), ["a"] * 10_000, [3], [None]],
    "stop_token_ids": [[-1], ["1"], [True], [1.0], [MAX_COUNT + 1], [1] * (MAX_STOP_TOKEN_IDS + 1)],
    "banned_token_ids": [[-1], ["1"], [True], [1.0], [MAX_COUNT + 1], [1] * (MAX_BANNED_TOKEN_IDS + 1)],
    "constraint": [1, True, {}, b"{}"],
    "prompt_logprobs": ["1", True, 1.0, -1, MAX_LOGPROBS + 1],
}


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(field, value, id=f"{field}-{str(value)[:20]}-{index}")
        for field, values in table.items()
        for index, value in enumerate(values)
    ]


def test_every_field_has_its_bounds_tested() -> None:
    fields = set(SamplingParams.__struct_fields__)
    assert fields == ACCEPTED.keys()
    assert fields - {"ignore_eos"} == REFUSED.keys()


@pytest.mark.parametrize(("field", "value"), cases(ACCEPTED))
def test_accepted(field: str, value: Any) -> None:
    assert getattr(SamplingParams(**{field: value}), field) == value


@pytest.mark.parametrize(("field", "value"), cases(REFUSED))
def test_refused_under_its_own_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParams(**{field: value})
    error = caught.value
    assert error.param == field
    assert (error.status, error.type, error.code) == (400, "invalid_request_error", "invalid_value")
    assert field in error.message or (field == "stop" and "stop string" in error.message)


def test_more_min_tokens_than_max_tokens() -> None:
    SamplingParams(min_tokens=4, max_tokens=4)
    with pytest.raises(InvalidRequestError, match=r"min_tokens=5.*max_tokens=4") as caught:
        SamplingParams(min_tokens=5, max_tokens=4)
    assert caught.value.param == "min_tokens"


def test_messages_give_the_bounds_and_the_value() -> None:
    with pytest.raises(InvalidRequestError, match=r"temperature must be between 0 and 100, not 101"):
        SamplingParams(temperature=101)
    with pytest.raises(InvalidRequestError, match=r"max_tokens must be at least 1, not -3"):
        SamplingParams(max_tokens=-3)
    with pytest.raises(InvalidRequestError, match=r"n must be between 1 and 16, not 17"):
        SamplingParams(n=17)
    with pytest.raises(InvalidRequestError, match=r"10000 stop strings"):
        SamplingParams(stop=["a"] * 10_000)


def test_frozen_and_strict() -> None:
    params = SamplingParams()
    with pytest.raises(AttributeError):
        params.temperature = 0.5  # type: ignore[misc]  # wrong on purpose
    with pytest.raises(TypeError):
        SamplingParams(temprature=1)  # type: ignore[call-arg]  # wrong on purpose


def test_replacing_checks_again() -> None:
    with pytest.raises(InvalidRequestError):
        msgspec.structs.replace(SamplingParams(), top_p=2.0)


def test_greedy_and_penalised() -> None:
    assert SamplingParams(temperature=0).greedy
    assert not SamplingParams(temperature=0.01).greedy
    assert not SamplingParams(logit_bias={1: 1.0}).penalised
    for change in ({"presence_penalty": -1}, {"frequency_penalty": 0.1}, {"repetition_penalty": 0.9}):
        assert SamplingParams(**change).penalised


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "temperature": st.floats(0, 100),
            "top_p": st.floats(1e-6, 1),
            "top_k": st.integers(0, MAX_COUNT),
            "min_p": st.floats(0, 1),
            "seed": st.none() | st.integers(-SEED_BOUND, SEED_BOUND - 1),
            "logit_bias": st.dictionaries(st.integers(0, MAX_COUNT), st.floats(-100, 100), max_size=4),
            "stop": st.lists(st.text(min_size=1, max_size=9), max_size=4),
            "stop_token_ids": st.lists(st.integers(0, MAX_COUNT), max_size=4),
            "banned_token_ids": st.lists(st.integers(0, MAX_COUNT), max_size=4),
            "constraint": st.none() | st.text(max_size=9),
            "prompt_logprobs": st.none() | st.integers(0, MAX_LOGPROBS),
        },
    )
)
def test_whatever_is_accepted_crosses_as_msgpack(fields: dict[str, Any]) -> None:
    params = SamplingParams(**{"stop": [], "stop_token_ids": [], "banned_token_ids": [], **fields})
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(params), type=SamplingParams) == params


def test_bounds_hold_for_what_arrives_as_msgpack() -> None:
    for field, value in (("temperature", -1.0), ("n", 99), ("top_k", -1)):
        raw = msgspec.msgpack.encode({field: value})
        with pytest.raises(InvalidRequestError, match=field):
            msgspec.msgpack.decode(raw, type=SamplingParams)
