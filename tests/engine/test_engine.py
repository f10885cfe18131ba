"""What the engine promises its callers: order, limits, cancellation, deadlines, seeds, siblings, tenants."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_checkpoints
from ostro.core.errors import ConfigError, InvalidRequestError, PromptTooLongError, QueueFullError
from ostro.core.events import Event, RequestFinished, RequestQueued, RequestScheduled, StepFinished
from ostro.core.options import EngineOptions
from ostro.core.request import EngineRequest
from ostro.core.sampling import SamplingParams
from ostro.engine.engine import Engine
from ostro.models.layers.context import DenseContext
from ostro.weights.loader import load_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.make("mistral-v0.3", tmp_path_factory.mktemp("tiny") / "model").folder


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make(folder: Path, clock: Clock | None = None, sink: Any = None, **options: Any) -> Engine:
    settings = {"block_size": 4, "kv_memory": 2_000_000, "max_num_seqs": 8, "max_batch_tokens": 64, **options}
    more: dict[str, Any] = {} if sink is None else {"sink": sink}
    return Engine(load_model(folder), EngineOptions(model=str(folder), **settings), clock=clock or Clock(), **more)


def request(name: str, prompt: list[int], seed: int = 0, **changes: Any) -> EngineRequest:
    fields = {key: changes.pop(key) for key in list(changes) if key in EngineRequest.__struct_fields__}
    params = SamplingParams(**{"temperature": 0, "max_tokens": 8, **changes})
    return EngineRequest(request_id=name, prompt_token_ids=prompt, params=params, seed=seed, **fields)


def drain(engine: Engine) -> dict[str, list[int]]:
    tokens: dict[str, list[int]] = {}
    while engine.has_work:
        for event in engine.step():
            tokens.setdefault(event.request_id, []).extend(event.token_ids)
    return tokens


def finish_order(engine: Engine) -> list[str]:
    order: list[str] = []
    while engine.has_work:
        order += [event.request_id for event in engine.step() if event.finish_reason]
    return order


def test_lower_priority_values_are_served_first_and_equals_in_order(folder: Path) -> None:
    engine = make(folder, max_num_seqs=1)
    for name, priority in (("a", 0), ("b", 5), ("c", -5), ("d", 0)):
        engine.add(request(name, [5, 6], priority=priority, max_tokens=2))
    assert finish_order(engine) == ["c", "a", "d", "b"]


def test_waiting_requests_age_past_later_more_important_ones(folder: Path) -> None:
    clock = Clock()
    engine = make(folder, clock, max_num_seqs=1, ageing_s=10.0)
    engine.add(request("old", [5, 6], priority=2))
    clock.now += 5
    engine.add(request("young", [5, 6], priority=1))
    assert finish_order(engine) == ["young", "old"]
    engine.add(request("old", [5, 6], priority=2))
    clock.now += 10.5
    engine.add(request("young", [5, 6], priority=1))
    assert finish_order(engine) == ["old", "young"], "10.5 s are worth more than one level"


def test_a_full_queue_refuses_and_says_when_to_come_back(folder: Path) -> None:
    engine = make(folder, max_num_seqs=1, max_waiting=2)
    engine.add(request("a", [5]))
    engine.add(request("b", [5]))
    with pytest.raises(QueueFullError, match="2 requests are waiting") as caught:
        engine.add(request("c", [5]))
    assert 1 <= caught.value.retry_after <= 60
    engine.step()
    engine.add(request("c", [5]))
    assert set(drain(engine)) == {"a", "b", "c"}


def test_cancelling_frees_blocks_at_once_running_or_waiting(folder: Path) -> None:
    engine = make(folder, max_num_seqs=1)
    engine.add(request("running", list(range(3, 40)), max_tokens=30))
    engine.add(request("waiting", [5]))
    engine.step()
    assert engine.stats().kv_usage > 0
    assert engine.stats().waiting == 1
    engine.abort("waiting")
    engine.abort("running")
    assert engine.stats().kv_usage == 0
    assert engine.stats().waiting == engine.stats().running == 0
    engine.blocks.check([])
    assert not engine.has_work
    assert engine.step() == []
    engine.abort("running")  # Nobody's id: no error.


def test_a_deadline_ends_running_and_waiting_requests(folder: Path) -> None:
    clock = Clock()
    engine = make(folder, clock, max_num_seqs=1)
    engine.add(request("running", [5, 6], max_tokens=50, timeout_s=3.0))
    engine.add(request("waiting", [5, 6], timeout_s=2.0))
    engine.add(request("patient", [5, 6], timeout_s=60.0))
    engine.step()
    clock.now += 5
    ended = {event.request_id: event.finish_reason for event in engine.step()}
    assert ended["running"] == ended["waiting"] == "deadline"
    assert finish_order(engine) == ["patient"]
    engine.blocks.check([])


@pytest.mark.parametrize("speculate", [0, 4])
def test_the_same_seed_gives_the_same_answer_whatever_else_runs(folder: Path, speculate: int) -> None:
    sampled = {"temperature": 1.0, "top_p": 0.95, "seed": 1234, "max_tokens": 24}
    engine = make(folder, speculate=speculate)
    engine.add(request("x", [7, 8, 9], **sampled))
    alone = drain(engine)["x"]
    engine = make(folder, speculate=speculate, max_batch_tokens=16)
    for index in range(5):
        engine.add(request(f"noise{index}", [5 + index] * (index * 9 + 1), temperature=1.5, seed=index, max_tokens=30))
    engine.step()
    engine.add(request("x", [7, 8, 9], **sampled))
    assert drain(engine)["x"] == alone
    engine.add(request("y", [7, 8, 9], **{**sampled, "seed": 1235}))
    assert drain(engine)["y"] != alone


def test_speculation_changes_no_token_of_any_request(folder: Path) -> None:
    """Token for token the same as plain sampling, greedy or not, with penalties or not: so is the distribution."""
    prompt = [9, 8, 7, 6] * 6
    variants: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 0.7},
        {"temperature": 0.5, "repetition_penalty": 1.3},
        {"temperature": 0.3, "min_tokens": 10, "stop_token_ids": [7, 8]},
    ]
    outputs: list[dict[str, list[int]]] = []
    accepted = 0
    for speculate in (0, 5):
        engine = make(folder, speculate=speculate, max_num_seqs=16)
        for index, changes in enumerate(variants * 4):
            engine.add(request(str(index), prompt, seed=index, max_tokens=40, **changes))
        outputs.append(drain(engine))
        accepted = engine.stats().accepted_tokens
    assert outputs[0] == outputs[1]
    assert accepted > 5


BIAS = {7: 20.0, 8: 20.0, 9: 20.0}


def test_speculated_sampling_has_the_plain_distribution(folder: Path) -> None:
    """Over many seeds, drafted positions are distributed as the model says (chi-square over three tokens)."""
    prompt = [9, 8, 7, 9, 8, 7, 9, 8]
    runs = 1200
    engine = make(folder, speculate=3, max_num_seqs=64, max_batch_tokens=256, max_waiting=runs)
    for seed in range(runs):
        # Few tokens, and those of the prompt: drafts are often right, every outcome is frequent enough to test.
        engine.add(request(str(seed), prompt, seed=seed, temperature=1.5, top_k=3, max_tokens=4, logit_bias=BIAS))
    counts = Counter(tuple(tokens[:3]) for tokens in drain(engine).values())
    stats = engine.stats()
    assert 0 < stats.accepted_tokens < stats.draft_tokens
    model = load_model(folder)
    expected = {triple: runs * p for triple, p in triple_probabilities(model, prompt).items()}
    assert counts.keys() <= expected.keys()
    frequent = [triple for triple, count in expected.items() if count >= 5]
    statistic = sum((counts[triple] - expected[triple]) ** 2 / expected[triple] for triple in frequent)
    # 99.9th percentile of chi-square (Wilson-Hilferty approximation).
    freedom = len(frequent) - 1
    assert freedom > 5
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3


def triple_probabilities(model: Any, prompt: list[int]) -> dict[tuple[int, ...], float]:
    """P(first three tokens) under temperature 1.5, top-k 3, by scoring every way to go on."""

    def best(ids: list[int]) -> dict[int, float]:
        with torch.inference_mode():
            logits = model.logits(model(torch.tensor(ids), torch.arange(len(ids)), DenseContext()))[-1]
        logits = logits.clone()
        for token, bias in BIAS.items():
            logits[token] += bias
        probabilities = (logits / 1.5).softmax(-1)
        values, tokens = probabilities.topk(3)
        return dict(zip(tokens.tolist(), (values / values.sum()).tolist(), strict=True))

    paths: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(3):
        paths = {(*path, token): p * q for path, p in paths.items() for token, q in best(prompt + list(path)).items()}
    return paths


def test_siblings_wait_for_the_first_and_share_its_prompt(folder: Path) -> None:
    engine = make(folder)
    prompt = list(range(3, 40))
    for index in range(3):
        engine.add(request(f"s{index}", prompt, seed=index, temperature=1.0, group="s"))
    events = [event for _ in range(2) for event in engine.step()]
    assert [event.request_id for event in events if event.cached_tokens == 0] == ["s0", "s0"]
    drain(engine)
    assert engine.stats().prefix_hits == 2 * 36


def test_tenants_and_adapters_do_not_share_prefixes(folder: Path) -> None:
    engine = make(folder)
    prompt = list(range(3, 30))

    def cached(name: str, **fields: Any) -> int:
        engine.add(request(name, prompt, max_tokens=1, **fields))
        (event,) = engine.step()
        return event.cached_tokens

    assert cached("a", salt="one") == 0
    assert cached("b", salt="two") == 0
    assert cached("c", salt="one") == 24
    assert cached("d", salt="one", adapter_id="lora") == 0


def test_what_cannot_be_served_is_refused_before_it_is_queued(folder: Path) -> None:
    engine = make(folder)
    with pytest.raises(PromptTooLongError, match=r"512 tokens.*600"):
        engine.add(request("a", [5] * 600, max_tokens=1))
    with pytest.raises(PromptTooLongError, match="max_tokens=8"):
        engine.add(request("a", [5] * 510))
    with pytest.raises(InvalidRequestError, match="vocabulary of 128"):
        engine.add(request("a", [128]))
    with pytest.raises(InvalidRequestError, match="empty"):
        engine.add(request("a", []))
    with pytest.raises(InvalidRequestError, match="logit_bias"):
        engine.add(request("a", [5], logit_bias={128: 1.0}))
    engine.add(request("a", [5]))
    with pytest.raises(InvalidRequestError, match="'a' is running"):
        engine.add(request("a", [5]))
    assert len(drain(engine)["a"]) == 8


def test_stops_and_lengths(folder: Path) -> None:
    engine = make(folder)
    engine.add(request("plain", [5, 6, 7], max_tokens=12))
    plain = drain(engine)["plain"]
    engine.add(request("stop", [5, 6, 7], max_tokens=12, stop_token_ids=[plain[4]]))
    stopped = drain(engine)["stop"]
    assert stopped == plain[: plain.index(plain[4])]
    engine.add(request("late", [5, 6, 7], max_tokens=12, stop_token_ids=[plain[4]], min_tokens=9))
    late = drain(engine)["late"]
    assert len(late) >= 9
    assert plain[4] not in late[:9]
    engine.add(request("full", [5] * 500, max_tokens=12))
    assert len(drain(engine)["full"]) == 12


def test_a_cache_too_small_is_an_error_that_says_so(folder: Path) -> None:
    with pytest.raises(ConfigError, match="one block of 4 tokens takes"):
        make(folder, kv_memory=100)
    with pytest.raises(ConfigError, match="max_model_len=512 needs"):
        make(folder, kv_memory=50_000, max_model_len=512)
    with pytest.raises(ConfigError, match="context of 512"):
        make(folder, max_model_len=513)
    assert make(folder, kv_memory=50_000).card.context < 512


def test_events_reach_the_sink_in_order(folder: Path) -> None:
    seen: list[Event] = []
    engine = make(folder, sink=seen.append)
    engine.add(request("a", [5, 6, 7], max_tokens=2))
    drain(engine)
    kinds = [type(event) for event in seen]
    assert kinds == [RequestQueued, RequestScheduled, StepFinished, RequestFinished, StepFinished]
    finished = seen[3]
    assert isinstance(finished, RequestFinished)
    assert (finished.reason, finished.prompt_tokens, finished.completion_tokens) == ("length", 3, 2)


def test_long_prompts_do_not_stall_running_answers(folder: Path) -> None:
    """Chunked prefill: while a long prompt is read, a running answer gets a token every step."""
    engine = make(folder, max_batch_tokens=16)
    engine.add(request("running", [5], max_tokens=60))
    engine.step()
    engine.add(request("long", [6] * 300, max_tokens=1))
    for _ in range(15):
        assert any(event.request_id == "running" for event in engine.step())
    drain(engine)
