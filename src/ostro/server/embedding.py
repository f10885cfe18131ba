"""From prompts to vectors, a few at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Literal

import numpy as np

from ostro.core.errors import DeadlineExceededError, InvalidRequestError, OstroError
from ostro.core.media import MediaInput, MediaSpan
from ostro.core.request import EngineRequest
from ostro.core.sampling import SamplingParams
from ostro.observability.metrics import ServerMetrics
from ostro.server.models import ServedModel

# Inputs of one request that are in the engine at a time: enough to fill its batches, few enough that a request with
# thousands of them leaves its queue to others.
IN_FLIGHT = 32

_NO_ANSWER = SamplingParams(max_tokens=1)


@dataclass(frozen=True)
class Prompt:
    """One input to embed. field: where it stood in the request. spans, media: of an image or a sound."""

    field: str
    token_ids: list[int]
    spans: list[MediaSpan] = dataclass_field(default_factory=list)
    media: list[MediaInput] = dataclass_field(default_factory=list)


@dataclass(frozen=True)
class Pooled:
    """A prompt's vector, float32, as the model gave it. cached_tokens: of the prompt, what was not computed again."""

    vector_D: np.ndarray
    cached_tokens: int


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """How the prompts of one request are embedded."""

    model: ServedModel
    metrics: ServerMetrics
    request_id: str
    owner: str
    pooling: Literal["last", "mean"]
    priority: int = 0
    timeout_s: float | None = None

    async def run(self, prompts: Sequence[Prompt], done: Callable[[int, Pooled], None]) -> None:
        """Embed all. done: gets each one's number and vector, in the order in which they are finished.

        The first failure ends the others and is raised: InvalidRequestError naming the field, QueueFullError,
        NotReadyError, EngineDeadError, DeadlineExceededError, or what `done` raises.
        """
        started = time.monotonic()
        rest = iter(enumerate(prompts))

        async def work() -> None:
            for index, prompt in rest:
                done(index, await self._one(index, prompt, started))

        workers = [asyncio.create_task(work()) for _ in range(min(IN_FLIGHT, len(prompts)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _one(self, index: int, prompt: Prompt, started: float) -> Pooled:
        begun = time.monotonic()
        reason = "abort"
        stream = self.model.engine.submit(
            EngineRequest(
                request_id=f"{self.request_id}-{index}",
                prompt_token_ids=prompt.token_ids,
                spans=prompt.spans,
                media=prompt.media,
                params=_NO_ANSWER,
                seed=0,
                priority=self.priority,
                # The deadline is the whole request's; the engine counts from an input's own arrival.
                timeout_s=None if self.timeout_s is None else max(0.001, self.timeout_s - (begun - started)),
                pooling=self.pooling,
                salt=self.owner,
            )
        )
        try:
            event = await anext(stream)
            reason = event.finish_reason or "error"
            if reason == "deadline":
                raise DeadlineExceededError("The request's deadline passed before it was done.", param="timeout")
            if event.embedding is None:
                raise OstroError(event.error or f"The engine ended the request: {reason}.")
            return Pooled(np.frombuffer(event.embedding, dtype="<f4"), event.cached_tokens)
        except InvalidRequestError as error:
            reason = "error"
            error.param = prompt.field
            raise
        except OstroError:
            reason = "deadline" if reason == "deadline" else "error"
            raise
        finally:
            stream.abort()
            self.metrics.finished(self.model.name, reason, time.monotonic() - begun)


def shortened(vector_D: np.ndarray, width: int | None, field: str) -> np.ndarray:
    """The first `width` numbers of a vector, all for None, at a Euclidean length of 1; float32.

    Raises InvalidRequestError naming `field` where the vector has fewer, OstroError for one that is not finite.
    """
    if width is not None and width > len(vector_D):
        raise InvalidRequestError(
            f"{field}={width} is more than the {len(vector_D)} numbers of this model's vectors.", param=field
        )
    kept_D = vector_D[:width].astype(np.float64)
    length = float(np.linalg.norm(kept_D))
    if not np.isfinite(length):
        raise OstroError("The model gave a vector with numbers that are not finite.")
    return (kept_D / length if length else kept_D).astype("<f4")
