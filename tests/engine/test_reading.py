"""What is read off prompts - their tokens' log-probabilities, their vectors - against transformers, however the engine
cuts, shares, caches and gives way."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace

import tiny_checkpoints
from ostro import LLM, SamplingParams
from ostro.core.errors import InvalidRequestError, PromptTooLongError
from ostro.core.request import EngineRequest

# How the engine is set up: plain; prompts in pieces of 7 tokens; three sequences with room for little more than one.
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "chunked": {"max_batch_tokens": 7, "max_num_seqs": 4},
    "crowded": {"max_num_seqs": 3, "kv_memory": 80_000, "max_model_len": 128},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tiny_checkpoints.Tiny:
    folder = tmp_path_factory.mktemp("reading") / "model"
    torch.manual_seed(0)
    model = tiny_checkpoints._mistral().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15)
    model.save_pretrained(folder)
    return tiny_checkpoints.Tiny(folder, model.float())


@pytest.fixture(scope="module", params=SETTINGS)
def llm(request: pytest.FixtureRequest, tiny: tiny_checkpoints.Tiny) -> LLM:
    options = {"kv_memory": 4_000_000, "block_size": 8, **SETTINGS[request.param]}
    return LLM(tiny.folder, dtype="float32", device="cpu", **options)


def prompts(count: int) -> list[list[int]]:
    """Of many lengths, some with a beginning in common, some twice."""
    draw = random.Random(7)
    shared = [draw.randrange(3, 128) for _ in range(24)]
    made = [[draw.randrange(3, 128) for _ in range(draw.choice([1, 2, 8, 9, 40, 90]))] for _ in range(count)]
    return [shared + one[:60] if index % 3 == 0 else one for index, one in enumerate(made)] + [shared, shared]


def reference_hidden(tiny: tiny_checkpoints.Tiny, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        hidden: torch.Tensor = tiny.reference.model(torch.tensor([ids])).last_hidden_state[0]
    return hidden


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("normalise", [True, False])
def test_vectors(llm: LLM, tiny: tiny_checkpoints.Tiny, pooling: Any, normalise: bool) -> None:
    asked = prompts(10)
    for _ in range(2):  # the second time the cache knows them all
        vectors_ND = llm.embed(asked, pooling=pooling, normalise=normalise)
        assert vectors_ND.dtype == np.float32
        for ids, vector_D in zip(asked, vectors_ND, strict=True):
            hidden_TD = reference_hidden(tiny, ids)
            expected_D = (hidden_TD[-1] if pooling == "last" else hidden_TD.mean(0)).numpy()
            if normalise:
                expected_D = expected_D / np.linalg.norm(expected_D)
            np.testing.assert_allclose(vector_D, expected_D, atol=2e-4)
    assert llm.engine.stats().kv_usage == 0


def test_log_probabilities_of_prompts(llm: LLM, tiny: tiny_checkpoints.Tiny) -> None:
    asked = prompts(8)
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, prompt_logprobs=3)
    for _ in range(2):
        for ids, output in zip(asked, llm.generate(asked, params, progress=False), strict=True):
            logprobs_TV = torch.log_softmax(tiny.reference_logits(ids), -1)
            entries = output.prompt_logprobs
            assert entries is not None
            assert entries[0] is None
            assert len(entries) == len(ids)
            for at, entry in enumerate(entries[1:], 1):
                assert entry is not None
                expected_V = logprobs_TV[at - 1]
                assert entry.token_id == ids[at]
                assert entry.logprob == pytest.approx(float(expected_V[ids[at]]), abs=2e-3)
                best = [value for _, value in entry.top]
                assert best == pytest.approx(expected_V.topk(3).values.tolist(), abs=2e-3)
            assert len(output.token_ids) == 12
            (alone,) = llm.generate([ids], replace(params, prompt_logprobs=None), progress=False)
            assert output.token_ids == alone.token_ids


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_prompt_that_gave_way_is_read_anew(tiny: tiny_checkpoints.Tiny, pooling: Any) -> None:
    """Two answers grow until the cache has no room left for the prompt that is being read beside them."""
    llm = LLM(tiny.folder, dtype="float32", device="cpu", block_size=8, max_batch_tokens=4, **SETTINGS["crowded"])
    ids = [random.Random(3).randrange(3, 128) for _ in range(90)]
    growing = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    for name in ("one", "two"):
        llm.engine.add(EngineRequest(request_id=name, prompt_token_ids=[5, 6, 7], params=growing, seed=0, priority=-1))
    llm.engine.add(
        EngineRequest(
            request_id="read", prompt_token_ids=ids, params=SamplingParams(max_tokens=1), seed=0, pooling=pooling
        )
    )
    vector: bytes | None = None
    while llm.engine.has_work:
        for event in llm.engine.step():
            vector = event.embedding or vector
    assert llm.engine.stats().preemptions > 0
    assert vector is not None
    hidden_TD = reference_hidden(tiny, ids)
    expected_D = (hidden_TD[-1] if pooling == "last" else hidden_TD.mean(0)).numpy()
    np.testing.assert_allclose(np.frombuffer(vector, "<f4"), expected_D, atol=2e-4)


def test_vectors_beside_answers(tiny: tiny_checkpoints.Tiny) -> None:
    llm = LLM(tiny.folder, dtype="float32", device="cpu", kv_memory=4_000_000)
    ids = prompts(1)[0]
    before = llm.generate([ids], SamplingParams(temperature=0, max_tokens=5, ignore_eos=True), progress=False)[0]
    vector_D = llm.embed([ids], pooling="mean")[0]
    after = llm.generate([ids], SamplingParams(temperature=0, max_tokens=5, ignore_eos=True), progress=False)[0]
    assert before.token_ids == after.token_ids
    assert np.linalg.norm(vector_D) == pytest.approx(1, abs=1e-5)


def test_refusals(tiny: tiny_checkpoints.Tiny) -> None:
    llm = LLM(tiny.folder, dtype="float32", device="cpu", kv_memory=4_000_000, max_model_len=64)
    with pytest.raises(PromptTooLongError):
        llm.embed([[3] * 65])
    with pytest.raises(InvalidRequestError):
        llm.embed([[]])
    with pytest.raises(InvalidRequestError):
        llm.embed([[100_000]])
    assert llm.embed([[3, 4]]).shape == (1, 48)
