"""What crosses into an engine and what comes back: msgspec types, so that they cross a socket as msgpack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from ostro.core.media import MediaInput, MediaSpan
from ostro.core.sampling import SamplingParams


class EngineRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence to generate. `params.stop` is not the engine's business: whoever detokenises watches it.

    priority: lower is served earlier (default 0); waiting requests age, so none starves.
    timeout_s: seconds from arrival after which the request ends with `finish_reason="deadline"`.
    seed: resolved by the caller, never None: sampling is keyed by (seed, position).
    group: siblings of one prompt (`n` > 1) share it; they wait for the first to have cached the prompt.
    salt: tenant salt of the block hashes; equal prompts under other salts share no cache.
    inspect: tell how attention was routed between the senses while the prompt was read; the prompt is read whole then.
    spans, media: which positions stand for images and sounds, in order, and each of those once.
    pooling: no answer is generated; the prompt's hidden states become one vector: that of its last token, or the
        mean of all.
    """

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    seed: int
    stop_token_ids: list[int] = []
    priority: int = 0
    timeout_s: float | None = None
    group: str | None = None
    adapter_id: str = ""
    salt: str = ""
    spans: list[MediaSpan] = []
    media: list[MediaInput] = []
    inspect: bool = False
    pooling: Literal["last", "mean"] | None = None


class TokenLogprobs(msgspec.Struct, frozen=True):
    """Log-probability (nats) of one chosen token and of the most likely ones, best first."""

    token_id: int
    logprob: float
    top: list[tuple[int, float]] = []


@dataclass
class ToolCall:
    """A tool call of an answer; arguments are JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str = ""


class LabelScore(msgspec.Struct, frozen=True):
    """A label that a model with a head for them gives a prompt. group: what kind of label it is, such as "intent".
    score: its probability among those of the group, and none of them."""

    label: str
    score: float
    group: str


class Routing(msgspec.Struct, frozen=True):
    """How attention was routed while a prompt was read: factors on the weight of what is seen, [layer][looking][seen],
    means over the tokens that look; 1 changes nothing. senses: in the order of the numbers, those that are there."""

    senses: list[str]
    layers: list[list[list[float]]]


class TokensEvent(msgspec.Struct, kw_only=True):
    """New tokens of one request. The last event of a request has a `finish_reason`.

    finish_reason: "stop" (stop token, which is not among token_ids), "length", "abort", "deadline", "error".
    cached_tokens: prompt tokens that came from the prefix cache; set on the first event.
    prompt_logprobs: one entry a prompt token, None for the first; on the first event, where they were asked for.
    labels: what the model's head for labels says of the prompt, the most probable first; on the first event.
    routing: on the first event, where it was asked for and the model routes.
    embedding: the pooled vector, float32 little-endian, on the only event of a pooling request.
    error_param: the sampling parameter that the error is the fault of; None where it is nobody's.
    """

    request_id: str
    token_ids: list[int] = []
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: str | None = None
    cached_tokens: int = 0
    error: str | None = None
    error_param: str | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    embedding: bytes | None = None
    labels: list[LabelScore] = []
    routing: Routing | None = None


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of an engine, cheap enough to send once a step. Counters only grow.

    media_queries, media_hits: images and sounds of scheduled requests, and those that no encoder had to run for.
    drain_s: seconds until all that runs and waits is served at the recent pace; None before there is a pace.
    """

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    kv_blocks: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    media_queries: int = 0
    media_hits: int = 0
    steps: int = 0
    drain_s: float | None = None

    def after(self, past: EngineStats) -> EngineStats:
        """This snapshot, its counters going on from those of an engine before it."""
        return msgspec.structs.replace(self, **{name: getattr(self, name) + getattr(past, name) for name in _COUNTERS})

    def ended(self) -> EngineStats:
        """What is left of it when its engine is gone: the counters."""
        return EngineStats(**{name: getattr(self, name) for name in _COUNTERS})


_COUNTERS = (
    "prefix_queries",
    "prefix_hits",
    "preemptions",
    "prompt_tokens",
    "generation_tokens",
    "draft_tokens",
    "accepted_tokens",
    "media_queries",
    "media_hits",
    "steps",
)


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """What a loaded model tells about itself. max_requests: running and waiting ones that it takes; 0 is not told.
    modalities: what it senses beside text."""

    name: str
    architecture: str
    parameters: int
    weight_bytes: int
    dtype: str
    device: str
    context: int
    kv_tokens: int
    load_seconds: float = 0.0
    kernels: str = ""
    eos_token_ids: list[int] = []
    max_requests: int = 0
    modalities: list[str] = []


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one request. cached_tokens is the part of prompt_tokens that was not computed again,
    reasoning_tokens the part of completion_tokens that was thought and not said."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens
