"""A real child process around an engine that reads its answers from a script, in the tokens of a real tokenizer.

The options' model is a folder with `tekken.json` and `script.json`: `{"when": "say", …}`. The rule whose `when` stands
last in the prompt answers, so a tool's result can be answered too. `say` is text in which names of control tokens
(`[TOOL_CALLS]`, `[THINK]`, …) become those tokens; with `{"say": …, "step_s": 0.1, "ends": false}` in its place every
step takes that long, and the answer goes on until max_tokens. Run as `python -m scripted_engine` by the supervisor.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import sys
import time
from pathlib import Path
from typing import Any

from ostro.core.errors import PromptTooLongError, QueueFullError
from ostro.core.options import EngineOptions
from ostro.core.request import EngineRequest, EngineStats, ModelCard, TokenLogprobs, TokensEvent
from ostro.link.worker import Progress, StepEngine, run_worker
from ostro.tokenizer import Tokenizer, load_tokenizer

OTHERWISE = "There is no line for this in the script."
DIMENSIONS = 8

_STEP_S = 0.001
_NAME = re.compile(r"(\[/?[A-Z_]+\])")


def special_ids(folder: Path) -> dict[str, int]:
    """Control tokens of the folder's tokenizer by name."""
    entries = json.loads((folder / "tekken.json").read_text())["special_tokens"]
    return {entry["token_str"]: entry["rank"] for entry in entries}


def tokens_of(tokenizer: Tokenizer, names: dict[str, int], line: str) -> list[int]:
    """A line's tokens, with control tokens where their names are."""
    ids: list[int] = []
    for piece in _NAME.split(line):
        if piece in names:
            ids.append(names[piece])
        elif piece:
            ids += tokenizer.encode(piece, bos=False)
    return ids


class Answering:
    """One request and how far its answer is."""

    def __init__(self, request: EngineRequest, tokens: list[int], step_s: float, ends: bool) -> None:
        self.request = request
        self.tokens = tokens
        self.step_s = step_s
        self.ends = ends
        self.sent = 0
        self.arrived = time.monotonic()


class ScriptedEngine:
    def __init__(self, options: EngineOptions) -> None:
        folder = Path(options.model)
        tokenizer = load_tokenizer(folder)
        assert tokenizer is not None
        self.options = options
        self.tokenizer = tokenizer
        self._names = special_ids(folder)
        self._script: dict[str, Any] = json.loads((folder / "script.json").read_text())
        self.card = ModelCard(
            name=options.name,
            architecture="script",
            parameters=1,
            weight_bytes=4,
            dtype="float32",
            device="cpu",
            context=options.max_model_len or 4096,
            kv_tokens=8192,
            max_requests=options.max_num_seqs + options.max_waiting,
        )
        self._running: dict[str, Answering] = {}
        self._total = self._prompts = self._steps = 0

    @property
    def has_work(self) -> bool:
        return bool(self._running)

    def add(self, request: EngineRequest) -> None:
        length = len(request.prompt_token_ids)
        if length >= self.card.context:
            raise PromptTooLongError(length, None, self.card.context)
        if len(self._running) >= self.options.max_num_seqs + self.options.max_waiting:
            raise QueueFullError("The queue is full.", retry_after=2.0)
        line = self._line(self.tokenizer.decode(request.prompt_token_ids))
        rule = line if isinstance(line, dict) else {"say": line}
        tokens = tokens_of(self.tokenizer, self._names, rule["say"])
        answering = Answering(request, tokens, rule.get("step_s", _STEP_S), rule.get("ends", True))
        self._running[request.request_id] = answering
        self._prompts += length

    def _line(self, conversation: str) -> Any:
        places = {when: conversation.rfind(when) for when in self._script}
        last = max(places, key=lambda when: (places[when], len(when)), default="")
        return self._script[last] if places.get(last, -1) >= 0 else OTHERWISE

    def abort(self, request_id: str) -> None:
        self._running.pop(request_id, None)

    def step(self) -> list[TokensEvent]:
        self._steps += 1
        running = list(self._running.values())[: self.options.max_num_seqs]
        time.sleep(max(answering.step_s for answering in running))
        return [self._advance(answering) for answering in running]

    def _advance(self, answering: Answering) -> TokensEvent:
        request, params = answering.request, answering.request.params
        event = TokensEvent(request_id=request.request_id)
        if request.pooling is not None:
            event.embedding, event.finish_reason = _vector(request.prompt_token_ids), "stop"
        elif request.timeout_s is not None and time.monotonic() - answering.arrived > request.timeout_s:
            event.finish_reason = "deadline"
        elif answering.ends and answering.sent == len(answering.tokens):
            event.finish_reason = "stop"
        else:
            token = answering.tokens[answering.sent % len(answering.tokens)]
            event.token_ids = [token]
            if params.logprobs is not None:
                event.logprobs = [TokenLogprobs(token, -0.5, [(token, -0.5)][: params.logprobs])]
            if answering.sent == 0 and params.prompt_logprobs is not None:
                known = [TokenLogprobs(token, -1.0, []) for token in request.prompt_token_ids[1:]]
                event.prompt_logprobs = [None, *known]
            answering.sent += 1
            if answering.sent >= (params.max_tokens or 4096):
                event.finish_reason = "length"
        self._total += len(event.token_ids)
        if event.finish_reason is not None:
            self.abort(request.request_id)
        return event

    def stats(self) -> EngineStats:
        running = min(len(self._running), self.options.max_num_seqs)
        return EngineStats(
            running=running,
            waiting=len(self._running) - running,
            kv_usage=running / self.options.max_num_seqs,
            kv_blocks=100,
            prompt_tokens=self._prompts,
            generation_tokens=self._total,
            steps=self._steps,
        )


def _vector(token_ids: list[int]) -> bytes:
    """A direction that the tokens alone decide; its length is not 1, so that a server has something to normalise."""
    digest = hashlib.sha256(struct.pack(f"<{len(token_ids)}i", *token_ids)).digest()
    return struct.pack(f"<{DIMENSIONS}f", *(byte / 16 - 8 for byte in digest[:DIMENSIONS]))


def load(options: EngineOptions, progress: Progress) -> StepEngine:
    progress(0, 1, "reading the script")
    return ScriptedEngine(options)


if __name__ == "__main__":
    sys.exit(run_worker(load))
