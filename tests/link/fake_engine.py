"""A real child process around an engine that is none: it echoes the prompt, a token a step.

Prompts drive it: the first token picks what it does. Run as `python -m fake_engine` by the supervisor.
"""

from __future__ import annotations

import os
import sys
import time

from ostro.core.errors import CheckpointError, PromptTooLongError, QueueFullError
from ostro.core.options import EngineOptions
from ostro.core.request import EngineRequest, EngineStats, ModelCard, TokensEvent
from ostro.link.worker import Progress, StepEngine, run_worker

ECHO, CRASH, RAISE, EAT, SLOW = 1, 66, 67, 68, 69


class FakeEngine:
    """Answers a prompt with its own tokens, over and over, up to max_tokens."""

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
        )
        self._requests: dict[str, EngineRequest] = {}
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
            raise QueueFullError("The queue is full.", retry_after=3.0)
        match request.prompt_token_ids[0]:
            case token if token == CRASH:
                os.kill(os.getpid(), 9)
            case token if token == EAT:
                self._hoard.append(b"x" * 300_000_000)
        self._requests[request.request_id] = request
        self._sent[request.request_id] = 0
        self._prompts += len(request.prompt_token_ids)

    def abort(self, request_id: str) -> None:
        self._requests.pop(request_id, None)

    def step(self) -> list[TokensEvent]:
        self._steps += 1
        time.sleep(0.002)
        events = []
        for request_id, request in list(self._requests.items())[: self.options.max_num_seqs]:
            prompt = request.prompt_token_ids
            if prompt[0] == RAISE:
                raise RuntimeError("the fake engine was told to fail")
            if prompt[0] == SLOW:
                time.sleep(0.05)
            sent = self._sent[request_id]
            done = sent + 1 >= (request.params.max_tokens or 16)
            event = TokensEvent(request_id=request_id, token_ids=[prompt[sent % len(prompt)]])
            event.finish_reason = "length" if done else None
            events.append(event)
            self._sent[request_id] += 1
            self._total += 1
            if done:
                self.abort(request_id)
        return events

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
        time.sleep(6.0)
    progress(2, 2, "reading nothing")
    return FakeEngine(options)


if __name__ == "__main__":
    sys.exit(run_worker(load))
