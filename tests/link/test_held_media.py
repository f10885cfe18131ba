"""How much of images and sounds requests may hold together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from ostro.core.errors import QueueFullError
from ostro.core.media import MediaInput, MediaSpan
from ostro.core.options import EngineOptions
from ostro.core.request import EngineRequest
from ostro.core.sampling import SamplingParams
from ostro.link import EngineProcess

SIZE = 100  # numbers of an image


def request(request_id: str, numbers: Sequence[int]) -> EngineRequest:
    images = [MediaInput.of("image", np.full(SIZE, number, np.float32), (1, 1)) for number in numbers]
    return EngineRequest(
        request_id=request_id,
        prompt_token_ids=[1, 2, 3, 4],
        params=SamplingParams(max_tokens=4),
        seed=0,
        spans=[MediaSpan(index, 1, image.digest, "image") for index, image in enumerate(images)],
        media=images,
    )


def test_a_queue_of_images_is_refused_before_it_fills_the_memory() -> None:
    async def scenario() -> None:
        engine = EngineProcess("fake_engine", EngineOptions(model="m", name="fake", media_memory=3 * SIZE * 4))
        engine.start()
        try:
            await engine.wait_ready()
            alone = engine.submit(request("alone", [1, 2, 3, 4]))  # more than all of it, but nobody else's is there
            with pytest.raises(QueueFullError) as raised:
                engine.submit(request("a", [5]))
            assert raised.value.retry_after > 0
            text = engine.submit(request("text", []))
            for stream in (alone, text):
                assert [token async for event in stream for token in event.token_ids]
            first, second = engine.submit(request("b", [1, 2])), engine.submit(request("c", [2, 1, 3]))
            with pytest.raises(QueueFullError):
                engine.submit(request("d", [1, 4]))
            first.abort()
            second.abort()
            last = engine.submit(request("e", [4, 5, 6]))
            assert [token async for event in last for token in event.token_ids]
        finally:
            await engine.close()

    asyncio.run(scenario())
