"""One request of a job, again and again while the server is only busy."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from fastapi import FastAPI

from ostro.core.errors import EngineDeadError
from ostro.server.batch.calls import Answer, post

PRIORITY = 50
"""That of a job's requests: they wait behind everything that people send themselves."""

_LOWEST_PRIORITY = 100
_BUSY = (429, 503)
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_MAX_DEATHS = 2
_MAX_LOADS = 4
_QUIET_S = 12.0  # more than an engine must live for its supervisor to forget earlier deaths

# Bodies of these have a priority; the others are over in a step.
_PRIORITISED = ("/v1/chat/completions", "/v1/completions", "/v1/fim/completions", "/v1/responses")


class Caller:
    """Sends the requests of jobs to the application.

    A busy server (429, 503) is asked again after what its Retry-After says, and longer each time, without end: the
    job has a deadline. A request that was in an engine when the engine died may be why it died: it is repeated once,
    when the engine has been well for a while and with no other request of a job beside it. So one that kills engines
    is found out without taking others with it, and before a supervisor gives the engine up. A model that cannot be
    loaded is tried a few times.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._aisle = _Aisle()
        self._unwell_at = float("-inf")

    async def answer(
        self, endpoint: str, fields: dict[str, Any], model: str | None, request_id: str, owner: str
    ) -> Answer:
        """The final answer to a request. model: for a body that names none. owner: whose request it is."""
        body = msgspec.json.encode(_prepared(endpoint, fields, model))
        deaths = loads = attempt = 0
        while True:
            async with self._aisle.alone() if deaths else self._aisle.shared():
                if deaths:
                    await asyncio.sleep(self._unwell_at + _QUIET_S - time.monotonic())
                answer = await post(self._app, endpoint, body, request_id=request_id, owner=owner)
                if answer.status == 503:
                    self._unwell_at = time.monotonic()
            deaths += answer.fields.get("code") == EngineDeadError.code
            loads += answer.fields.get("code") == "load_failed"
            if answer.status not in _BUSY or deaths >= _MAX_DEATHS or loads >= _MAX_LOADS:
                return answer
            await asyncio.sleep(_pause(answer, attempt))
            attempt += 1


class _Aisle:
    """Many at a time, or one alone; whoever would be alone goes before new ones."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0
        self._waiting = 0

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._waiting and self._inside >= 0)
            self._inside += 1
        try:
            yield
        finally:
            async with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._changed:
            self._waiting += 1
            try:
                await self._changed.wait_for(lambda: self._inside == 0)
                self._inside = -1
            finally:
                self._waiting -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            async with self._changed:
                self._inside = 0
                self._changed.notify_all()


def _pause(answer: Answer, attempt: int) -> float:
    """Seconds. Spread out, so that what was refused together does not come back together."""
    asked = answer.headers.get("retry-after", "")
    least = min(float(asked), _LONGEST_PAUSE_S) if asked.isdecimal() else 0.0
    longest = min(_FIRST_PAUSE_S * 2.0 ** min(attempt, 10), _LONGEST_PAUSE_S)
    return max(least, longest) * random.uniform(1.0, 1.25)


def _prepared(endpoint: str, fields: dict[str, Any], model: str | None) -> dict[str, Any]:
    body = dict(fields)
    if model is not None and body.get("model") is None:
        body["model"] = model
    if endpoint in _PRIORITISED:
        given = body.get("priority")
        given = PRIORITY if given is None else given
        if isinstance(given, int):  # anything else is the endpoint's to refuse
            body["priority"] = max(PRIORITY, min(given, _LOWEST_PRIORITY))
    return body
