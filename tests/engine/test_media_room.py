"""How much of prompts with media runs beside streams."""

from __future__ import annotations

import numpy as np
import pytest
from test_scheduler_properties import make_engine

from ostro.core.media import MediaInput, MediaSpan
from ostro.core.request import EngineRequest
from ostro.core.sampling import SamplingParams

SHOWN = 4


@pytest.mark.parametrize(("decode_s", "most"), [(0.006, 3), (0.0001, 1)])
def test_prompts_with_media_share_what_streams_leave_them(decode_s: float, most: int) -> None:
    """Were it theirs each, a stream would be slowed down by as many as there are."""
    engine = make_engine((0,), spare=60, slots=SHOWN + 1, budget=64, speculate=0, caching=False, encoder_cache=1000)
    scheduler = engine.scheduler
    stream = EngineRequest(
        request_id="stream",
        prompt_token_ids=[1, 2],
        params=SamplingParams(max_tokens=50, temperature=0, ignore_eos=True),
        seed=0,
    )
    engine.add(stream)
    engine.step()
    for number in range(SHOWN):
        image = MediaInput.of("image", np.full((1, 1), number, np.float32), (1, 1))
        engine.add(
            EngineRequest(
                request_id=f"r{number}",
                prompt_token_ids=[1] * 8,
                params=SamplingParams(max_tokens=1, temperature=0),
                seed=0,
                spans=[MediaSpan(0, 1, image.digest, "image")],
                media=[image],
            )
        )
    prefilled = 0
    while engine.scheduler.num_waiting or len(scheduler.running) > 1:
        scheduler.pace._decode_s, scheduler.pace._token_s = decode_s, 0.002
        before = {sequence.request.request_id: sequence for sequence in engine._sequences.values()}
        done = {name: sequence.computed for name, sequence in before.items()}
        engine.step()
        took = sum(before[name].computed - at for name, at in done.items() if name != "stream")
        assert took <= most
        prefilled = max(prefilled, took)
        assert stream.request_id in engine._sequences, "prompts wait longer than a stream of fifty tokens"
    assert prefilled == most
