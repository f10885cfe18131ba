"""Whether a request would be answered now: a real pass of one token through the models that have to be there."""

from __future__ import annotations

import asyncio
import time

from ostro.core.errors import NotReadyError, OstroError, QueueFullError
from ostro.core.ids import new_id
from ostro.core.request import EngineRequest
from ostro.core.sampling import SamplingParams
from ostro.server.models import Models, ServedModel

_CACHED_S = 1.0
_PASS_S = 10.0
_STEPPING_S = 1.0
_PROBE_PRIORITY = -1_000_000  # before everything that waits


class Readiness:
    """Answers at most once a second for real; probes that come together share one pass."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._running: asyncio.Task[None] | None = None
        self._ended = 0.0

    async def check(self) -> None:
        """Return when every model that has to be there gave a token. Raises NotReadyError with the reason."""
        with self._models.to_probe() as probed:
            for model in probed:
                model.ready_card()  # A death is known without a pass, and at once.
        if self._running is None or (self._running.done() and time.monotonic() - self._ended > _CACHED_S):
            self._running = asyncio.create_task(self._pass())
        # Shielded: a prober that leaves must not fail the others.
        await asyncio.shield(self._running)

    async def _pass(self) -> None:
        try:
            with self._models.to_probe() as probed:
                await asyncio.gather(*(_one_token(model) for model in probed))
        finally:
            self._ended = time.monotonic()


async def _one_token(model: ServedModel) -> None:
    bos = None if model.tokenizer is None else model.tokenizer.bos_id
    request = EngineRequest(
        request_id=new_id("probe"),
        prompt_token_ids=[1 if bos is None else bos],
        params=SamplingParams(max_tokens=1, temperature=0.0),
        seed=0,
        priority=_PROBE_PRIORITY,
    )
    steps = model.engine.stats.steps
    stream = model.engine.submit(request)
    try:
        async with asyncio.timeout(_PASS_S):
            token = asyncio.ensure_future(anext(stream))
            try:
                await asyncio.wait({token}, timeout=_STEPPING_S)
                # A full batch makes the probe wait; an engine that goes on stepping meanwhile is well.
                if not token.done() and model.engine.stats.steps == steps:
                    await asyncio.wait({token})
                if token.done():
                    token.result()
            finally:
                token.cancel()
                await asyncio.gather(token, return_exceptions=True)
    except TimeoutError:
        raise NotReadyError(f"The model '{model.name}' gave no token within {_PASS_S:g} s.") from None
    except QueueFullError as error:
        raise NotReadyError(f"The model '{model.name}': {error.message}", retry_after=error.retry_after) from error
    except NotReadyError:
        raise
    except OstroError as error:
        raise NotReadyError(f"The model '{model.name}' failed on a pass of one token: {error.message}") from error
    finally:
        stream.abort()
