"""A real child process around an engine that is none: it echoes the prompt, a token a step.

Prompts drive it: the first token picks what it does. Run as `python -m fake_engine` by the supervisor.
"""

from __future__ import annotations

import os
import sys
import time

from ostro.core.errors import CheckpointError, PromptTooLongError, QueueFullError
from ostro.core.options import EngineOptions
from ostro.core.request import EngineRequest, EngineStats, ModelCard, TokenLogprobs, TokensEvent
from ostro.link.worker import Progress, StepEngine, run_worker

CRASH, RAISE, EAT, SLOW, STUCK = 11, 12, 13, 14, 15


class FakeEngine:
    """Answers a prompt with its own tokens, over and over, up to max_tokens or a stop token."""

    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        self.card = ModelCard(
            name=options.name,
            architecture="fake",
            parameters=1,
            weight_bytes=4,
            dtype="float32",
            device="cpu",
            context=options.max_model_len or 512,
            kv_tokens=1024,
            max_requests=options.max_num_seqs + options.max_waiting,
        )
        self._requests: dict[str, EngineRequest] = {}
        self._arrived: dict[str, float] = {}
        self._sent: dict[str, int] = {}
        self._hoard: list[bytes] = []
        self._total = self._prompts = self._steps = 0

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    def add(self, request: EngineRequest) -> None:
        if len(request.prompt_token_ids) >= self.card.context:
            raise PromptTooLongError(len(request.prompt_token_ids), None, self.card.context)
        if len(self._requests) >= self.options.max_num_seqs + self.options.max_waiting:
            raise QueueFullError("The queue is full.", retry_after=2.5)
        if request.prompt_token_ids[0] == CRASH:
            os.kill(os.getpid(), 9)
        if request.prompt_token_ids[0] == EAT:
            self._hoard.append(b"x" * 300_000_000)
        self._requests[request.request_id] = request
        self._arrived[request.request_id] = time.monotonic()
        self._sent[request.request_id] = 0
        self._prompts += len(request.prompt_token_ids)

    def abort(self, request_id: str) -> None:
        self._requests.pop(request_id, None)

    def step(self) -> list[TokensEvent]:
        self._steps += 1
        time.sleep(0.002)
        running = sorted(self._requests.values(), key=lambda request: request.priority)[: self.options.max_num_seqs]
        if any(SLOW in request.prompt_token_ids[:2] for request in running):
            time.sleep(0.05)
        events = [self._advance(request) for request in running]
        return [event for event in events if event is not None]

    def _advance(self, request: EngineRequest) -> TokensEvent | None:
        name, prompt, params = request.request_id, request.prompt_token_ids, request.params
        if request.timeout_s is not None and time.monotonic() - self._arrived[name] > request.timeout_s:
            self.abort(name)
            return TokensEvent(request_id=name, finish_reason="deadline")
        if prompt[0] == RAISE:
            raise RuntimeError("the fake engine was told to fail")
        if prompt[0] == STUCK:
            return None
        index = self._sent[name]
        token = prompt[(index + request.seed) % len(prompt)]
        event = TokensEvent(request_id=name, token_ids=[token])
        if index == 0:
            event.cached_tokens = len(prompt) // 2
        if params.logprobs is not None:
            top = [(token, -0.5), (token + 1, -1.5), (token + 2, float("-inf"))][: params.logprobs]
            event.logprobs = [TokenLogprobs(token, -0.5, top)]
        self._sent[name] += 1
        if token in request.stop_token_ids and index >= params.min_tokens:
            event = TokensEvent(request_id=name, finish_reason="stop")
        elif index + 1 >= (params.max_tokens or 16):
            event.finish_reason = "length"
        self._total += len(event.token_ids)
        if event.finish_reason is not None:
            self.abort(name)
        return event

    def stats(self) -> EngineStats:
        running = min(len(self._requests), self.options.max_num_seqs)
        return EngineStats(
            running=running,
            waiting=len(self._requests) - running,
            kv_usage=running / self.options.max_num_seqs,
            kv_blocks=100,
            prompt_tokens=self._prompts,
            generation_tokens=self._total,
            steps=self._steps,
        )


def load(options: EngineOptions, progress: Progress) -> StepEngine:
    progress(0, 2, "reading nothing")
    if options.model == "missing":
        raise CheckpointError("There is no such checkpoint.")
    if options.model == "dies":
        print("last words", file=sys.stderr)
        sys.stderr.flush()
        os._exit(3)
    if options.model == "slow":
        time.sleep(30.0)
    if options.model.startswith("takes "):
        seconds, *rest = options.model.removeprefix("takes ").split()
        time.sleep(float(seconds))
        if rest == ["missing"]:
            raise CheckpointError("There is no such checkpoint.")
    progress(2, 2, "reading nothing")
    return FakeEngine(options)


if __name__ == "__main__":
    sys.exit(run_worker(load))
