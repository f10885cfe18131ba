"""Events that a slow reader gets as one."""

from __future__ import annotations

import asyncio

from ostro.core.request import LabelScore, Routing, TokensEvent
from ostro.link.stream import TokenStream


def test_nothing_is_lost_when_events_become_one() -> None:
    labels = [LabelScore("cat", 0.9, "photo")]
    routing = Routing(["text"], [[[1.0]]])
    stream = TokenStream("r", lambda request_id: None)
    stream.push(TokensEvent(request_id="r", token_ids=[1], cached_tokens=16, labels=labels, routing=routing))
    stream.push(TokensEvent(request_id="r", token_ids=[2]))
    stream.push(TokensEvent(request_id="r", finish_reason="error", error="it ends", error_param="constraint"))

    async def read() -> list[TokensEvent]:
        return [event async for event in stream]

    (event,) = asyncio.run(read())
    assert (event.token_ids, event.cached_tokens) == ([1, 2], 16)
    assert (event.labels, event.routing) == (labels, routing)
    assert (event.finish_reason, event.error, event.error_param) == ("error", "it ends", "constraint")
