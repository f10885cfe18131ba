"""What `expand` decides: seeds, stop tokens, room for the answer, siblings."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostro.core.errors import InvalidRequestError, PromptTooLongError
from ostro.core.expand import expand, sibling_seed
from ostro.core.request import EngineRequest
from ostro.core.sampling import SamplingParams


def _expand(params: SamplingParams, prompt: list[int] | None = None, **more: object) -> list[EngineRequest]:
    given_prompt = [1, 2, 3] if prompt is None else prompt
    return expand("r", given_prompt, params, eos_ids={2}, context=32, **more)  # type: ignore[arg-type]  # wrong on purpose


def test_one_request_keeps_its_id_and_fills_the_context() -> None:
    (request,) = _expand(SamplingParams(seed=5, stop=["x"]))
    assert request.request_id == "r"
    assert request.group is None
    assert request.seed == 5
    assert request.params.max_tokens == 29
    assert request.params.stop == ()
    assert request.stop_token_ids == [2]


def test_ignore_eos_leaves_only_the_callers_stop_tokens() -> None:
    (request,) = _expand(SamplingParams(ignore_eos=True, stop_token_ids=[9, 9, 4]))
    assert request.stop_token_ids == [4, 9]
    (request,) = _expand(SamplingParams(stop_token_ids=[9]))
    assert request.stop_token_ids == [2, 9]


def test_siblings_share_a_group_and_not_a_seed() -> None:
    requests = _expand(SamplingParams(seed=5, n=4))
    assert [r.request_id for r in requests] == ["r-0", "r-1", "r-2", "r-3"]
    assert {r.group for r in requests} == {"r"}
    assert requests[0].seed == 5
    assert len({r.seed for r in requests}) == 4
    assert [r.seed for r in requests] == [r.seed for r in _expand(SamplingParams(seed=5, n=4))]
    assert all(r.params.n == 1 for r in requests)


def test_a_seed_is_drawn_where_none_is_given() -> None:
    assert _expand(SamplingParams())[0].seed != _expand(SamplingParams())[0].seed


@given(st.integers(1, 40), st.one_of(st.none(), st.integers(1, 40)))
def test_prompt_and_answer_fit_the_context_or_are_refused(length: int, max_tokens: int | None) -> None:
    params = SamplingParams(max_tokens=max_tokens)
    if length + (max_tokens or 1) > 32:
        with pytest.raises(PromptTooLongError, match=rf"(?s)\b32\b.*\b{length}\b"):
            _expand(params, [1] * length)
    else:
        (request,) = _expand(params, [1] * length)
        assert request.params.max_tokens is not None
        assert length + request.params.max_tokens <= 32


@pytest.mark.parametrize("prompt", [[], [1, -1], [2**70]])
def test_an_prompt_without_valid_token_ids_is_refused(prompt: list[int]) -> None:
    with pytest.raises(InvalidRequestError):
        _expand(SamplingParams(), prompt)


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan")])
def test_a_deadline_must_be_positive(timeout: float) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        _expand(SamplingParams(), timeout_s=timeout)
    assert caught.value.param == "timeout"


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 15))
def test_sibling_seeds_stay_in_range(seed: int, index: int) -> None:
    assert -(2**63) <= sibling_seed(seed, index) < 2**63


def test_an_expanded_request_survives_msgpack() -> None:
    (request,) = _expand(SamplingParams(seed=5, logit_bias={3: 1.5}, logprobs=2), priority=3, salt="t")
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=EngineRequest)
    assert again.params.logit_bias == {3: 1.5}
    assert (again.seed, again.priority, again.salt) == (5, 3, "t")


@pytest.mark.parametrize("field", ["max_tokens", "min_tokens", "top_k"])
def test_counts_too_large_for_the_wire_are_refused(field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParams(**{field: 2**70})  # type: ignore[arg-type]  # wrong on purpose
    assert caught.value.param == field
