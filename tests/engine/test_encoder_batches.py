"""Which inputs an engine encodes together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from ostro.core.errors import QueueFullError
from ostro.core.media import MediaInput, MediaSpan, Prompt
from ostro.core.options import EngineOptions
from ostro.core.request import EngineRequest
from ostro.core.sampling import SamplingParams
from ostro.engine import encoding
from ostro.engine.engine import Engine
from ostro.engine.llm import LLM
from ostro.models.layers.encoder import Work
from tiny_unified import write_unified_model

PLACEHOLDER, TOKENS = 10, 4
SIDE = 16  # pixels: 2 × 2 tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoding") / "eye"
    write_unified_model(folder)
    return folder


def request(seed: int) -> EngineRequest:
    """Asks about an image of its own."""
    pixels = np.random.default_rng(seed).normal(size=(3, SIDE, SIDE)).astype(np.float32)
    image = MediaInput.of("image", pixels, (2, 2))
    return EngineRequest(
        request_id=f"r{seed}",
        prompt_token_ids=[1, *[PLACEHOLDER] * TOKENS, 60 + seed],
        params=SamplingParams(temperature=0, max_tokens=6, ignore_eos=True),
        seed=0,
        spans=[MediaSpan(1, TOKENS, image.digest, "image")],
        media=[image],
    )


def answers(folder: Path, requests: Sequence[EngineRequest]) -> tuple[dict[str, list[int]], list[int]]:
    """What a fresh engine says to requests that come together, and how many inputs each of its batches had."""
    engine = Engine.load(EngineOptions(model=str(folder), device="cpu", dtype="float32", kv_memory=4 << 20))
    encoder = engine.runner.model.encoder("image")
    assert encoder is not None
    encode, batches = encoder.encode, []

    def counted(inputs: Sequence[torch.Tensor]) -> Work[list[torch.Tensor]]:
        batches.append(len(inputs))
        return encode(inputs)

    encoder.encode = counted  # type: ignore[method-assign]  # a stand-in
    for one in requests:
        engine.add(one)
    said: dict[str, list[int]] = {one.request_id: [] for one in requests}
    while engine.has_work:
        for event in engine.step():
            said[event.request_id] += event.token_ids
    return said, batches


def test_images_that_wait_together_are_encoded_in_one_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [request(seed) for seed in range(3)]
    together, batches = answers(folder, requests)
    assert batches == [3]
    # Two of them no longer fit, and then there is one at least.
    for rows, expected in ((2 * TOKENS, [2, 1]), (2 * TOKENS - 1, [1, 1, 1]), (1, [1, 1, 1])):
        monkeypatch.setattr(encoding, "BATCH_ROWS", rows)
        apart, batches = answers(folder, requests)
        assert batches == expected
        assert apart == together
    assert len({tuple(tokens) for tokens in together.values()}) == 3, "each sees its own"


def test_inputs_that_wait_have_a_bound_together(folder: Path) -> None:
    """One alone is taken whatever its size, equal ones count once, and there is room again when others are done."""
    size = len(request(1).media[0].data)
    engine = Engine.load(
        EngineOptions(model=str(folder), device="cpu", dtype="float32", kv_memory=4 << 20, media_memory=2 * size)
    )
    engine.add(request(1))
    engine.add(request(2))
    engine.add(msgspec.structs.replace(request(2), request_id="again"))
    with pytest.raises(QueueFullError, match="bytes that there are"):
        engine.add(request(3))
    text = EngineRequest(request_id="text", prompt_token_ids=[1, 60], params=SamplingParams(max_tokens=1), seed=0)
    engine.add(text)
    while engine.has_work:
        engine.step()
    engine.add(request(3))
    engine.abort("r3")
    engine.options = msgspec.structs.replace(engine.options, media_memory=size // 2)
    engine.add(request(4))


def test_many_inputs_of_a_program_wait_their_turn(folder: Path) -> None:
    size = len(request(1).media[0].data)
    llm = LLM(folder, device="cpu", dtype="float32", kv_memory=4 << 20, media_memory=2 * size)
    prompts = [Prompt(one.prompt_token_ids, one.spans, one.media) for one in map(request, range(6))]
    outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=3, ignore_eos=True))
    assert [len(output.token_ids) for output in outputs] == [3] * 6
