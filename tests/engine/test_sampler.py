"""The sampler against slow, obvious loops: what is kept, what is drawn, what is reported."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from ostro.core.sampling import SamplingParams
from ostro.engine import sampler
from ostro.engine.randomness import uniform
from ostro.engine.sampler import SampleRow, sample
from ostro.kernels.pick_tokens import pick_tokens, reference

LARGEST_DRAW = 1 - 2.0**-53


def row(
    params: SamplingParams, *, seed: int = 0, position: int = 0, prompt: Any = (), output: Any = (), forbidden: Any = ()
) -> SampleRow:
    history = [*prompt, *output] if params.penalised else []
    return SampleRow(params, seed, position, history, len(prompt) if history else 0, list(forbidden))


def reference_adjusted(logits: list[float], one: SampleRow) -> list[float]:
    """Penalties, bias and forbidden tokens, token by token."""
    params, out = one.params, list(logits)
    output = one.history[one.num_prompt :]
    for token in range(len(out)):
        if token in one.history:
            out[token] = (
                out[token] / params.repetition_penalty if out[token] > 0 else out[token] * params.repetition_penalty
            )
        if token in output:
            out[token] -= params.presence_penalty + params.frequency_penalty * output.count(token)
        out[token] += params.logit_bias.get(token, 0.0)
        if token in one.forbidden:
            out[token] = -math.inf
    return out


def reference_kept(probs: list[float], params: SamplingParams) -> list[int]:
    """Walk down the full order (of equals the lower id first) and stop at the first token that a filter drops."""
    order = sorted(range(len(probs)), key=lambda token: (-probs[token], token))
    least = np.float32(params.min_p) * np.float32(probs[order[0]])
    kept, mass = [], 0.0
    for rank, token in enumerate(order):
        dropped = (
            (params.top_k and rank >= params.top_k)
            or (params.top_p < 1 and mass >= params.top_p)
            or np.float32(probs[token]) < least
        )
        if rank and dropped:
            break
        kept.append(token)
        mass += probs[token]
    return sorted(kept)


def reference_probs(logits: torch.Tensor, params: SamplingParams) -> list[float]:
    """Softmax at the row's temperature, in the sampler's own precision: the filters cut at its exact values."""
    return torch.softmax(logits.float() / torch.tensor(params.temperature), dim=-1).tolist()


def reference_draw(probs: list[float], kept: list[int], draw: float) -> int:
    total = math.fsum(probs[token] for token in kept)
    at = 0.0
    for token in kept:
        at += probs[token]
        if at > draw * total:
            return token
    raise AssertionError("the draw is below 1")


def drawn_at(logits: torch.Tensor, params: SamplingParams, draws: list[float]) -> list[int]:
    """What the sampler answers where its uniform numbers are `draws`: one batch, one row a draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "uniform", lambda seed, position: draws[position])
        rows = [row(params, position=index) for index in range(len(draws))]
        return sample(logits.expand(len(draws), -1), rows)[0]


def test_what_has_no_probability_is_no_reason_to_sort_a_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grammar may leave fewer tokens than top_k asks for."""
    counts: list[int] = []
    best = reference.best

    def counted(probs_RV: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        counts.append(count)
        return best(probs_RV, count)

    monkeypatch.setattr(reference, "best", counted)
    probs = torch.zeros(1, 50_000)
    probs[0, [7, 40_000]] = torch.tensor([0.25, 0.75])
    kept, ids = reference.kept(probs, [SamplingParams(temperature=1, top_k=20)])
    assert counts == [reference.FIRST_CANDIDATES]
    assert ids[0, :2].tolist() == [40_000, 7]
    assert kept[0].tolist() == [0.75, 0.25] + [0.0] * (kept.shape[1] - 2)


def check_kept(logits: torch.Tensor, params: SamplingParams, most: int = 60) -> None:
    """Aim a draw at the middle of every kept token's share of the reference's distribution, and hit it.

    A token too many or too few on the sampler's side shifts all shares behind it.
    """
    probs = reference_probs(logits[0], params)
    kept = reference_kept(probs, params)
    total = math.fsum(probs[token] for token in kept)
    shares, at = [], 0.0
    for token in kept:
        shares.append((token, (at + probs[token] / 2) / total))
        at += probs[token]
    aimed = [(token, draw) for token, draw in shares if probs[token] > 1e-9 * total]
    aimed = aimed[:: max(1, len(aimed) // most)] + aimed[-1:]
    assert drawn_at(logits, params, [draw for _, draw in aimed]) == [token for token, _ in aimed]
    first, last = drawn_at(logits, params, [0.0, LARGEST_DRAW])
    assert first in kept
    assert last in kept


def normal(vocabulary: int, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(seed)) * spread


filters = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.1, 0.7, 1.0, 1.0, 2.5]),
    top_k=st.sampled_from([0, 0, 1, 2, 5, 40, 127, 128, 129, 10_000]),
    top_p=st.sampled_from([1.0, 1.0, 0.01, 0.3, 0.5, 0.9, 0.999, 0.9999999]),
    min_p=st.sampled_from([0.0, 0.0, 1e-6, 0.05, 0.3, 1.0]),
)
# Coarse logits are full of ties, as bfloat16 ones are; 300 and more tokens are past the first candidates.
logit_rows = st.builds(
    lambda vocabulary, seed, spread, step: (normal(vocabulary, seed, spread) / step).round() * step,
    st.sampled_from([1, 2, 7, 127, 128, 129, 300, 1500]),
    st.integers(0, 999),
    st.sampled_from([0.0, 0.1, 3.0]),
    st.sampled_from([1e-6, 0.25, 2.0]),
)


@settings(max_examples=150)
@given(logit_rows, filters)
def test_kept_tokens_are_the_references(logits: torch.Tensor, params: SamplingParams) -> None:
    check_kept(logits, params)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(top_p=0.95),
        SamplingParams(min_p=0.02),
        SamplingParams(top_k=1000, top_p=0.9),
        SamplingParams(top_k=5000, min_p=0.05),
        SamplingParams(top_p=0.5, min_p=0.05),
    ],
    ids=["top_p", "min_p", "top_k and top_p", "top_k and min_p", "top_p and min_p"],
)
@pytest.mark.parametrize("spread", [0.1, 1.0])
def test_flat_distributions_over_a_large_vocabulary(params: SamplingParams, spread: float) -> None:
    """Thousands of tokens pass: the first 128 candidates are far from enough."""
    logits = normal(20_000, spread=spread)
    kept = reference_kept(reference_probs(logits[0], params), params)
    assert len(kept) > 3 * reference.FIRST_CANDIDATES
    check_kept(logits, params, most=20)


def test_equal_logits_keep_the_lowest_ids() -> None:
    logits = torch.zeros(1, 5000)
    draws = [0.0, 0.3, 0.5, 0.7, LARGEST_DRAW]
    assert drawn_at(logits, SamplingParams(top_k=5), draws) == [0, 1, 2, 3, 4]
    assert drawn_at(logits, SamplingParams(top_k=1), draws) == [0] * 5
    assert drawn_at(logits, SamplingParams(top_p=0.0005), [0.0, LARGEST_DRAW]) == [0, 2]


def test_a_top_p_of_one_keeps_the_tail() -> None:
    """The two best make up the whole mass in float32; a token of 1e-8 is still kept."""
    logits = torch.tensor([[0.0, 0.0, -18.4]])
    for params in (SamplingParams(min_p=1e-12), SamplingParams(top_k=3)):
        assert drawn_at(logits, params, [LARGEST_DRAW]) == [2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_greedy_is_the_first_best(dtype: torch.dtype) -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0, -1.0], [5.0, -math.inf, 2.0, 5.0]]).to(dtype)
    greedy = SamplingParams(temperature=0, top_k=3, top_p=0.1, min_p=0.4)
    assert sample(logits, [row(greedy), row(greedy, seed=9)])[0] == [1, 0]


@pytest.mark.parametrize("temperature", [1e-3, 1e-6, 1e-30, 5e-324])
def test_a_cold_temperature_is_greedy(temperature: float) -> None:
    logits = normal(500, seed=3, spread=20)
    best = int(logits.argmax())
    for params in (SamplingParams(temperature=temperature), SamplingParams(temperature=temperature, top_p=0.9)):
        assert drawn_at(logits, params, [0.0, 0.5, LARGEST_DRAW]) == [best] * 3


def test_a_hot_temperature_is_nearly_uniform() -> None:
    draws = [(i + 0.5) / 10 for i in range(10)]
    assert drawn_at(normal(10, spread=0.5), SamplingParams(temperature=100.0), draws) == list(range(10))


ALL_DRAWS = [0.0, 2.0**-53, 0.25, 0.5, 1 - 2.0**-30, LARGEST_DRAW]


@given(
    st.integers(2, 300),
    st.integers(0, 99),
    st.sampled_from(
        [SamplingParams(), SamplingParams(top_p=0.8), SamplingParams(top_k=50), SamplingParams(min_p=1e-9)]
    ),
)
def test_a_token_of_weight_zero_is_never_drawn(vocabulary: int, seed: int, params: SamplingParams) -> None:
    """Not at either end of the vocabulary, and not by a draw that rounds up to the whole mass."""
    logits = normal(vocabulary, seed, 2.0)
    gone = torch.rand(vocabulary, generator=torch.Generator().manual_seed(seed)) < 0.6
    gone[0] = gone[-1] = True
    gone[vocabulary // 2] = vocabulary < 3
    logits[0, gone] = -math.inf
    if not gone.all():
        assert not gone[drawn_at(logits, params, ALL_DRAWS)].any()


def test_the_largest_draw_stays_within_the_mass() -> None:
    """For totals of any size, with nothing of weight behind them."""
    for seed in range(200):
        weights = torch.rand(1, 9, generator=torch.Generator().manual_seed(seed)) * 1.7
        weights[0, -3:] = 0
        index = reference.invert(weights, torch.tensor([LARGEST_DRAW], dtype=torch.float64))
        assert weights[0, index] > 0


HISTORY = {"prompt": [1, 1, 4, 6], "output": [2, 2, 2, 4, 7]}
PENALTIES = [
    SamplingParams(temperature=0, repetition_penalty=1.7),
    SamplingParams(temperature=0, repetition_penalty=0.5),
    SamplingParams(temperature=0, presence_penalty=1.25),
    SamplingParams(temperature=0, presence_penalty=-2.0),
    SamplingParams(temperature=0, frequency_penalty=0.75),
    SamplingParams(temperature=0, frequency_penalty=-1.5),
    SamplingParams(temperature=0, logit_bias={3: 100.0, 5: -100.0, 0: 0.5}),
    SamplingParams(
        temperature=0, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.25, logit_bias={2: 1.5, 6: -2}
    ),
]


@pytest.mark.parametrize("params", PENALTIES)
@pytest.mark.parametrize("forbidden", [[], [3, 4]])
def test_adjusted_logits_are_the_references(params: SamplingParams, forbidden: list[int]) -> None:
    logits = normal(9, seed=11)[0]
    one = row(params, **HISTORY, forbidden=forbidden)
    ours = logits.clone()
    sampler.adjust(ours, one)
    expected = reference_adjusted(logits.tolist(), one)
    torch.testing.assert_close(ours, torch.tensor(expected))
    before = logits.clone()
    assert sample(logits[None], [one])[0] == [int(np.argmax(expected))]
    assert torch.equal(logits, before), "the caller's logits are not written to"


def test_penalties_in_plain_numbers() -> None:
    logits = torch.tensor([2.0, -2.0, 2.0, 2.0])
    one = row(
        SamplingParams(repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25),
        prompt=[0, 1],
        output=[2, 2],
    )
    sampler.adjust(logits, one)
    # Prompt tokens are divided or multiplied only; generated ones also lose 0.5 + 2 * 0.25; token 3 was never seen.
    assert logits.tolist() == [1.0, -4.0, 0.0, 2.0]


def test_adjustments_are_made_before_temperature_and_filters() -> None:
    logits = torch.tensor([[0.0, 4.0, 3.0, -9.0]])
    params = SamplingParams(temperature=0.5, top_k=2, logit_bias={3: 12.5})
    rows = [row(params, position=position, forbidden=[1]) for position in range(200)]
    tokens = sample(logits.expand(200, -1), rows)[0]
    assert set(tokens) == {2, 3}  # 1 is forbidden, 0 is third.
    share = math.exp(3.5 / 0.5) / (math.exp(3.5 / 0.5) + math.exp(3 / 0.5))
    assert abs(tokens.count(3) / 200 - share) < 0.1


def test_forbidden_tokens_never_come() -> None:
    logits = normal(50, seed=4)
    order = logits[0].argsort(descending=True).tolist()
    assert sample(logits, [row(SamplingParams(temperature=0), forbidden=order[:3])])[0] == [order[3]]
    rows = [row(SamplingParams(), position=p, forbidden=order[:45]) for p in range(100)]
    assert set(sample(logits.expand(100, -1), rows)[0]) <= set(order[45:])


requests = st.builds(
    lambda params, change: (params, change),
    filters,
    st.sampled_from(
        [
            {},
            {},
            {"temperature": 0.0},
            {"logit_bias": {0: 3.0, 5: -50.0}},
            {"repetition_penalty": 1.5, "frequency_penalty": 0.3},
            {"presence_penalty": -1.0, "logprobs": 3},
            {"logprobs": 0},
        ]
    ),
)


@settings(max_examples=80)
@given(st.lists(requests, min_size=1, max_size=8), st.integers(0, 999), st.sampled_from([7, 200, 2000]), st.booleans())
def test_a_row_alone_gives_what_it_gives_in_a_batch(
    wanted: list[tuple[SamplingParams, dict[str, Any]]], seed: int, vocabulary: int, coarse: bool
) -> None:
    import msgspec

    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(wanted), vocabulary, generator=generator) * 2
    if coarse:
        logits = logits.to(torch.bfloat16)
    rows = []
    for index, (params, change) in enumerate(wanted):
        history = torch.randint(0, vocabulary, (12,), generator=generator).tolist()
        params = msgspec.structs.replace(params, **change)
        rows.append(row(params, seed=seed + index, position=index * 7, prompt=history[:5], output=history[5:]))
    together, logprobs = sample(logits, rows)
    for index, one in enumerate(rows):
        alone, alone_logprobs = sample(logits[index : index + 1], [one])
        assert alone == together[index : index + 1]
        if not one.params.greedy and not one.adjusted:
            probs = reference_probs(logits[index], one.params)
            kept = reference_kept(probs, one.params)
            assert alone[0] == reference_draw(probs, kept, uniform(one.seed, one.position))
        if one.params.logprobs is not None:
            assert logprobs is not None
            assert alone_logprobs is not None
            assert alone_logprobs[0] == logprobs[index]


def test_the_same_seed_and_position_give_the_same_token() -> None:
    logits, params = normal(1000, spread=1.0), SamplingParams(top_p=0.95)
    tokens = [sample(logits, [row(params, seed=s, position=p)])[0][0] for s in range(20) for p in range(20)]
    again = [sample(logits, [row(params, seed=s, position=p)])[0][0] for s in range(20) for p in range(20)]
    assert tokens == again
    assert len(set(tokens)) > 100


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.6),
        SamplingParams(temperature=1.8, top_k=9),
        SamplingParams(top_p=0.85),
        SamplingParams(min_p=0.1),
        SamplingParams(temperature=1.3, top_k=30, top_p=0.9, min_p=0.02),
    ],
    ids=str,
)
@pytest.mark.parametrize("along", ["seeds", "positions"])
def test_draws_are_distributed_as_the_filtered_softmax(params: SamplingParams, along: str) -> None:
    """Pearson's chi-square over 6,000 draws at fixed seeds: deterministic, and p is above 0.001."""
    count, logits = 6000, normal(40, seed=21, spread=1.5)
    rows = [
        row(params, seed=i, position=3) if along == "seeds" else row(params, seed=3, position=i) for i in range(count)
    ]
    tokens = sample(logits.expand(count, -1), rows)[0]
    probs = torch.softmax(logits[0].double() / params.temperature, -1).tolist()
    kept = reference_kept(reference_probs(logits[0], params), params)
    assert set(tokens) <= set(kept)
    total = sum(probs[token] for token in kept)
    expected = {token: count * probs[token] / total for token in kept}
    # Cells with few expected draws are pooled, as the test's approximation wants.
    common = [token for token in kept if expected[token] >= 8]
    observed = [tokens.count(token) for token in common]
    wanted = [expected[token] for token in common]
    rest = count - sum(wanted)
    if rest > 1e-6:
        observed.append(count - sum(observed))
        wanted.append(rest)
    assert chisquare(observed, wanted).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logprobs_are_of_the_raw_distribution(dtype: torch.dtype) -> None:
    logits = (normal(60, seed=8).to(dtype)).expand(3, -1)
    rows = [
        row(SamplingParams(temperature=0, logprobs=4, logit_bias={7: 100.0})),
        row(SamplingParams(temperature=0.3, top_k=2, logprobs=0)),
        row(SamplingParams(temperature=0, logprobs=20), forbidden=[int(logits[0].argmax())]),
    ]
    tokens, logprobs = sample(logits, rows)
    assert logprobs is not None
    values = [float(v) for v in logits[0]]
    normaliser = math.log(math.fsum(math.exp(v) for v in values))
    order = sorted(range(60), key=lambda token: -values[token])
    assert tokens[0] == 7
    assert tokens[2] == order[1]
    for token, got, wanted in zip(tokens, logprobs, (4, 0, 20), strict=True):
        assert got.token_id == token
        assert got.logprob == pytest.approx(values[token] - normaliser, abs=1e-5)
        assert len(got.top) == wanted
        best = [values[t] - normaliser for t in order[:wanted]]
        assert [value for _, value in got.top] == pytest.approx(best, abs=1e-5)
        assert [values[t] - normaliser for t, _ in got.top] == pytest.approx(best, abs=1e-5)


def test_logprobs_are_none_unless_asked_for_and_fit_a_small_vocabulary() -> None:
    assert sample(normal(5), [row(SamplingParams())])[1] is None
    logprobs = sample(normal(5), [row(SamplingParams(logprobs=20))])[1]
    assert logprobs is not None
    assert len(logprobs[0].top) == 5
    assert math.fsum(math.exp(value) for _, value in logprobs[0].top) == pytest.approx(1)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 400),
    st.integers(0, 9999),
    st.sampled_from([0.0, 0.5, 3.0, 30.0]),
    st.booleans(),
    st.lists(
        st.builds(
            SamplingParams,
            temperature=st.just(1.0),
            top_k=st.sampled_from([0, 0, 1, 2, 7, 40, 500]),
            top_p=st.sampled_from([1.0, 1.0, 1e-6, 0.3, 0.9, 0.999]),
            min_p=st.sampled_from([0.0, 0.0, 0.02, 0.5, 1.0]),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_native_picks_are_those_of_the_reference(
    vocabulary: int, seed: int, spread: float, ties: bool, params: list[SamplingParams]
) -> None:
    """Both cut at the same token: for every draw the same pick, ties by token id and all."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, vocabulary, generator=generator) * spread
    probs = torch.softmax(logits.round() if ties else logits, dim=-1)
    draws = torch.cat(
        [
            torch.rand(60, generator=generator, dtype=torch.float64),
            torch.tensor([0.0, LARGEST_DRAW], dtype=torch.float64),
        ]
    )
    for one in params:
        rows = [one] * len(draws)
        expected = reference.pick_tokens(probs.expand(len(draws), -1), draws, rows)
        got = pick_tokens(probs.expand(len(draws), -1), draws, rows)
        if not torch.equal(got, expected):
            # Where a sum is within rounding of top_p, one token more or less is right too: shares then move by its own.
            ordered = probs[0].double().sort(descending=True).values.cumsum(0)
            assert bool(((ordered - one.top_p).abs() < 1e-12).any())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_distribution_gives_a_token_all_the_same(bad: float) -> None:
    probs = torch.full((2, 50), 0.02)
    probs[1, 7] = bad
    tokens = pick_tokens(probs, torch.tensor([0.5, 0.5], dtype=torch.float64), [SamplingParams(top_p=0.9)] * 2)
    assert 0 <= int(tokens[0]) < 45
    assert 0 <= int(tokens[1]) < 50
