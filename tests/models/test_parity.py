"""Logits and greedy tokens of every architecture against the reference implementation, by every path there is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tiny_checkpoints
from ostro.core.options import EngineOptions
from ostro.core.request import EngineRequest, TokensEvent
from ostro.core.sampling import SamplingParams
from ostro.engine.engine import Engine
from ostro.engine.kv_cache import CacheLayout, KVCache
from ostro.engine.plan import Admission, BatchPlan, PlanRow
from ostro.engine.runner import Runner
from ostro.models.layers.context import DenseContext
from ostro.weights.loader import load_model
from tiny_checkpoints import MAKERS, Tiny

TOLERANCE = 1e-4
BLOCK = 4


@pytest.fixture(scope="module", params=sorted(MAKERS))
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny_checkpoints.make(request.param, tmp_path_factory.mktemp("tiny") / request.param)


def prompt(length: int, seed: int) -> list[int]:
    return torch.randint(3, 128, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def paged_logits(folder: Path, ids: list[int], chunks: list[int]) -> torch.Tensor:
    """All logits of a prompt that is run in chunks of the given lengths through the paged cache."""
    model = load_model(folder)
    layout = CacheLayout.of(model.attention_specs(), BLOCK)
    blocks = -(-len(ids) // BLOCK)
    cache = KVCache(layout, blocks + 1, torch.float32, torch.device("cpu"))
    runner = Runner(model, cache, max_seqs=2, max_tokens=len(ids), max_len=len(ids))
    # Blocks in reverse, so that their order in memory is not the order of positions.
    tables = [list(range(blocks, 0, -1)) for _ in layout.groups]
    admission = Admission(1, SamplingParams(temperature=0), 0, [], ids, len(ids))
    logits, at = [], 0
    for step, length in enumerate(chunks):
        row = PlanRow(1, at, ids[at : at + length], length, tables if step == 0 else None)
        handle = runner.launch(BatchPlan(step, [admission] if step == 0 else [], [row]))
        assert handle.logits_RV is not None
        logits.append(handle.logits_RV.clone())
        at += length
    assert at == len(ids)
    return torch.cat(logits)


# Windows are 16, YaRN's and query scaling's original length is 32: 200 tokens are well past all of them.
@pytest.mark.parametrize("chunks", [[200], [70, 1, 2, 17, 60, 50], [40] * 5, [150] + [1] * 50])
def test_teacher_forced_logits_match_the_reference(tiny: Tiny, chunks: list[int]) -> None:
    ids = prompt(200, seed=1)
    ours, reference = paged_logits(tiny.folder, ids, chunks), tiny.reference_logits(ids)
    torch.testing.assert_close(ours, reference, atol=TOLERANCE, rtol=0)


def test_dense_context_matches_the_reference(tiny: Tiny) -> None:
    """The context that training uses, with two rows in a batch."""
    first, second = prompt(90, seed=2), prompt(90, seed=3)
    model = load_model(tiny.folder)
    positions = torch.arange(90).repeat(2)
    with torch.inference_mode():
        logits = model.logits(model(torch.tensor(first + second), positions, DenseContext(batch=2)))
    torch.testing.assert_close(logits[:90], tiny.reference_logits(first), atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(logits[90:], tiny.reference_logits(second), atol=TOLERANCE, rtol=0)


def test_a_layer_range_is_a_pipeline_stage(tiny: Tiny) -> None:
    ids = torch.tensor(prompt(60, seed=4))
    model = load_model(tiny.folder)
    positions = torch.arange(60)
    with torch.inference_mode():
        whole = model(ids, positions, DenseContext())
        stream = model(ids, positions, DenseContext(), range(0, 2))
        staged = model(stream, positions, DenseContext(), range(2, 3))
    torch.testing.assert_close(staged, whole, atol=1e-5, rtol=0)


def run(engine: Engine, prompts: list[list[int]], new: int, seed: int = 0) -> list[list[TokensEvent]]:
    events: list[list[TokensEvent]] = [[] for _ in prompts]
    for index, ids in enumerate(prompts):
        params = SamplingParams(temperature=0, max_tokens=new, logprobs=2)
        engine.add(EngineRequest(request_id=str(index), prompt_token_ids=ids, params=params, seed=seed))
    while engine.has_work:
        for event in engine.step():
            events[int(event.request_id)].append(event)
    return events


def check_greedy(tiny: Tiny, ids: list[int], events: list[TokensEvent]) -> None:
    """Tokens equal the reference's where its two best are further apart than the tolerance, log-probabilities all."""
    tokens = [token for event in events for token in event.token_ids]
    logits = tiny.reference_logits(ids + tokens)[len(ids) - 1 : -1]
    best = logits.topk(2, dim=-1).values
    for index, token in enumerate(tokens):
        if best[index, 0] - best[index, 1] > TOLERANCE:
            assert token == int(logits[index].argmax()), f"token {index}"
    expected = logits.log_softmax(-1)[torch.arange(len(tokens)), tokens]
    got = torch.tensor([item.logprob for event in events for item in event.logprobs or []])
    torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=0)


CASES = {
    "whole": {"max_batch_tokens": 1024},
    "chunked": {"max_batch_tokens": 16, "max_num_seqs": 8},
    "speculated": {"max_batch_tokens": 64, "max_num_seqs": 8, "speculate": 4},
    "uncached": {"max_batch_tokens": 64, "max_num_seqs": 8, "prefix_caching": False},
    "crowded": {"max_batch_tokens": 64, "max_num_seqs": 8, "kv_blocks": 64},
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_greedy_tokens_in_a_mixed_batch_match_the_reference(tiny: Tiny, case: str) -> None:
    options = dict(CASES[case])
    blocks = options.pop("kv_blocks", 400)
    layout = CacheLayout.of(load_model(tiny.folder).attention_specs(), BLOCK)
    engine = Engine.load(
        EngineOptions(
            model=str(tiny.folder),
            block_size=BLOCK,
            kv_memory=blocks * layout.block_bytes(torch.float32),
            **options,  # type: ignore[arg-type]  # any options
        )
    )
    # The second repeats itself, so that prompt lookup finds something.
    prompts = [prompt(150, 5), prompt(20, 6) * 4, prompt(3, 7), prompt(1, 8), prompt(61, 9)]
    for ids, events in zip(prompts, run(engine, prompts, new=24), strict=True):
        check_greedy(tiny, ids, events)
    engine.blocks.check([])
    if case == "crowded" and 0 in layout.windows:  # A window gives blocks back, and there are enough.
        assert engine.stats().preemptions > 0
    if case == "speculated":
        assert engine.stats().draft_tokens > 0


def test_prefix_cached_runs_match_the_reference(tiny: Tiny) -> None:
    engine = Engine.load(EngineOptions(model=str(tiny.folder), block_size=BLOCK, kv_memory=4_000_000))
    shared = prompt(100, 10)
    first = run(engine, [shared + prompt(9, 11)], new=16)
    assert first[0][0].cached_tokens == 0
    second = run(engine, [shared + prompt(30, 12), shared + prompt(9, 11)], new=16)
    assert second[0][0].cached_tokens == 100 // BLOCK * BLOCK
    assert second[1][0].cached_tokens == 108 // BLOCK * BLOCK
    check_greedy(tiny, shared + prompt(30, 12), second[0])
    check_greedy(tiny, shared + prompt(9, 11), second[1])


def test_alone_and_in_a_batch_give_the_same_tokens(tiny: Tiny) -> None:
    options = EngineOptions(model=str(tiny.folder), block_size=BLOCK, kv_memory=4_000_000)
    prompts = [prompt(40, 13), prompt(7, 14)]
    together = run(Engine.load(options), prompts, new=20)
    for ids, events in zip(prompts, together, strict=True):
        alone = run(Engine.load(options), [ids], new=20)[0]
        assert [e.token_ids for e in alone] == [e.token_ids for e in events]


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("mistral-v0.1", {"sliding_window": 16, "rope_theta": 10000.0}),
        ("mistral-v0.3", {"rope_theta": 1e6}),
        ("ministral", {"sliding_window": [None, 16, 16], "rope_theta": 10000.0}),
        (
            "ministral3",
            {
                "rope_theta": 10000.0,
                "yarn": {
                    "original_max_position_embeddings": 32,
                    "factor": 8,
                    "apply_scale": False,
                    "beta": 32,
                    "alpha": 1,
                },
                "llama_4_scaling": {"original_max_position_embeddings": 32, "beta": 0.1},
            },
        ),
    ],
)
def test_native_and_hf_folders_give_the_same_logits(tmp_path: Path, kind: str, extra: dict[str, object]) -> None:
    tiny = tiny_checkpoints.make(kind, tmp_path / "hf")
    tiny_checkpoints.to_native(tiny, tmp_path / "native", extra)
    ids = prompt(200, seed=15)
    native = paged_logits(tmp_path / "native", ids, [200])
    torch.testing.assert_close(native, paged_logits(tmp_path / "hf", ids, [200]), atol=1e-5, rtol=0)
    torch.testing.assert_close(native, tiny.reference_logits(ids), atol=TOLERANCE, rtol=0)
