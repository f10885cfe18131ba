"""One request of a job, again and again while the server is only busy."""

from __future__ import annotations

import asyncio
import random
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
_MAX_DEATHS = 3

# Bodies of these have a priority; the others are over in a step.
_PRIORITISED = ("/v1/chat/completions", "/v1/completions", "/v1/fim/completions")


class Caller:
    """Sends the requests of jobs to the application.

    A busy server (429, 503) is asked again after what its Retry-After says, and longer each time, without end: the
    job has a deadline. A request that was in an engine when the engine died may be why it died: it is repeated alone
    among its like, and given up after its third death.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._suspects = asyncio.Lock()

    async def answer(self, endpoint: str, fields: dict[str, Any], model: str | None, request_id: str) -> Answer:
        """The final answer to a request. model: for a body that names none."""
        body = msgspec.json.encode(_prepared(endpoint, fields, model))
        deaths = 0
        attempt = 0
        while True:
            if deaths:
                async with self._suspects:
                    answer = await post(self._app, endpoint, body, request_id=request_id)
            else:
                answer = await post(self._app, endpoint, body, request_id=request_id)
            deaths += answer.fields.get("code") == EngineDeadError.code
            if answer.status not in _BUSY or deaths >= _MAX_DEATHS:
                return answer
            await asyncio.sleep(_pause(answer, attempt))
            attempt += 1


def _pause(answer: Answer, attempt: int) -> float:
    """Seconds. Spread out, so that what was refused together does not come back together."""
    asked = answer.headers.get("retry-after", "")
    least = min(float(asked), _LONGEST_PAUSE_S) if asked.isdecimal() else 0.0
    longest = min(_FIRST_PAUSE_S * 2 ** min(attempt, 10), _LONGEST_PAUSE_S)
    return max(least, longest) * random.uniform(1.0, 1.25)


def _prepared(endpoint: str, fields: dict[str, Any], model: str | None) -> dict[str, Any]:
    body = dict(fields)
    if model is not None and body.get("model") is None:
        body["model"] = model
    if endpoint in _PRIORITISED:
        given = body.get("priority", PRIORITY)
        if isinstance(given, int):  # anything else is the endpoint's to refuse
            body["priority"] = max(PRIORITY, min(given, _LOWEST_PRIORITY))
    return body
