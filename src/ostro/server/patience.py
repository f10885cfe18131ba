"""Streams whose model has to be loaded first: they open before it is there, so that nothing between gives them up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

from fastapi import Response

from ostro.server.answering import stream_failure
from ostro.server.context import ServerContext
from ostro.web.errors import error_chunk
from ostro.web.sse import DONE, KEEP_ALIVE, EventStreamResponse, sse_data


def failed_chunk(error: Exception) -> bytes:
    """A failure as OpenAI's and Mistral's streams tell it."""
    return sse_data(error_chunk(stream_failure(error, "a request that waited"))) + DONE


async def patient(
    context: ServerContext,
    work: Coroutine[Any, Any, Response],
    *,
    streamed: bool | None,
    headers: Mapping[str, str],
    heartbeat: bytes = KEEP_ALIVE,
    failed: Callable[[Exception], bytes] = failed_chunk,
) -> Response:
    """What `work` answers. Where that is to be a stream and does not begin within a heartbeat's time, the stream opens
    and beats; what goes wrong from then on is in it, as `failed` writes it, instead of a status.

    headers: for a stream that opens early.
    """
    if not streamed:
        return await work
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait({working}, timeout=context.heartbeat_s)
    except BaseException:  # a client that left, too: nobody waits for the work any more
        working.cancel()
        raise
    if working.done():
        return working.result()

    async def frames() -> AsyncIterator[bytes]:
        try:
            answer = await working
        except Exception as error:  # noqa: BLE001 - the status is sent, so the stream has to say it
            yield failed(error)
            return
        assert isinstance(answer, EventStreamResponse), "a stream was asked for"
        async for frame in answer.frames:
            yield frame

    def close() -> None:
        # A client may leave in any moment: while the work goes on, or after it and before its frames were looked at.
        if not working.cancel() and not working.cancelled() and working.exception() is None:
            answer = working.result()
            assert isinstance(answer, EventStreamResponse)
            answer.close()

    return EventStreamResponse(
        frames(), close=close, headers=headers, heartbeat_s=context.heartbeat_s, heartbeat=heartbeat
    )
