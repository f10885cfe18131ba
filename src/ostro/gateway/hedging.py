"""Asking a second node where the first one takes long to begin, and taking whoever answers first."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from ostro.gateway.sending import Answer, NodeFailedError, Relayed
from ostro.routing.nodes import Choice

Asking = Callable[[Choice], Awaitable[Answer | Relayed]]


async def first_answer(
    ask: Asking, first: Choice, rest: deque[Choice], after_s: float | None
) -> tuple[Choice, Answer | Relayed]:
    """Who answered, and what. after_s: seconds until the next of `rest`, which is taken from there, is asked as well;
    None never does. Whoever is not needed any more is told so by the end of its connection.

    Raises NodeFailedError where nobody who was asked answers.
    """
    if after_s is None:
        return first, await ask(first)
    asked = {asyncio.ensure_future(ask(first)): first}
    try:
        done, _ = await asyncio.wait(asked, timeout=after_s)
        if not done and rest:
            second = rest.popleft()
            asked[asyncio.ensure_future(ask(second))] = second
        while True:
            done, pending = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            for one in sorted(done, key=list(asked).index):
                if one.exception() is None:
                    return asked.pop(one), one.result()
            failed = next(iter(done))
            if not pending:
                raise failed.exception() or NodeFailedError("gave no answer")
            for one in done:
                del asked[one]
    finally:
        await _let_go(list(asked))


async def _let_go(others: list[asyncio.Future[Answer | Relayed]]) -> None:
    for other in others:
        other.cancel()
    for found in await asyncio.gather(*others, return_exceptions=True):
        if isinstance(found, Answer):
            async with found:
                pass  # it answered too, in the same moment
