"""How much of prompts with media runs beside streams."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_scheduler_properties import make_engine

from ostro.core.media import MediaInput, MediaSpan
from ostro.core.request import EngineRequest
from ostro.core.sampling import SamplingParams
from ostro.engine.encodings import Encodings
from ostro.engine.plan import PlanRow
from ostro.engine.scheduler import _read_by

SHOWN = 4


@pytest.mark.parametrize(("decode_s", "most"), [(0.007, 3), (0.0001, 1)])
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


def test_what_a_step_reads_is_not_forgotten_in_it() -> None:
    """A long row reads several outputs, of which only the first is kept while another sequence stands still for the
    room."""
    images = [MediaInput.of("image", np.full(4, index, np.float32), (1, 1)) for index in range(3)]
    first, second, third = (image.digest for image in images)

    def sequence(slot: int, starts: dict[int, MediaInput]) -> Any:
        spans = [MediaSpan(start, 1, image.digest, "image") for start, image in starts.items()]
        return SimpleNamespace(slot=slot, computed=0, request=SimpleNamespace(spans=spans, media=[*starts.values()]))

    reads, stands = sequence(0, {1: images[0], 3: images[1]}), sequence(1, {0: images[2]})
    row = PlanRow(slot=0, start=0, token_ids=[1, 2, 3, 4], sample=0, tables=None)

    def ready() -> Encodings:
        encodings = Encodings(capacity=0, token_bytes=1)
        encodings._pending |= {first: 1, second: 1}
        encodings.done([first, second])
        return encodings

    encodings = ready()
    read = _read_by([reads, stands], [row])
    assert read == {first, second}
    assert _read_by([reads], [PlanRow(slot=0, start=0, token_ids=[1, 2, 3], sample=0, tables=None)]) == {first}
    assert encodings.plan([stands, reads], set())[1] == [second], "the room is wanted"
    encodings = ready()
    begun, forgotten = encodings.plan([stands, reads], read)
    assert ([one.digest for one in begun], forgotten) == ([third], [])
