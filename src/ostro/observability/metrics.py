"""Prometheus metrics under the names that vLLM's dashboards know, in a registry of its own per application."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from ostro.core.request import EngineStats
from ostro.observability.machine import MachineCollector
from ostro.observability.residency import Residency, ResidencyCollector

Snapshots = Callable[[], Mapping[str, EngineStats]]

CONTENT_TYPE = CONTENT_TYPE_LATEST

_LABEL = "model_name"

# From a cached prompt on a GPU to a 7B prompt on a laptop.
_FIRST_TOKEN_S = (0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
_BETWEEN_TOKENS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0)
_REQUEST_S = (0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 240.0, 480.0, 960.0)

_GAUGES: tuple[tuple[str, str, str], ...] = (
    ("vllm:num_requests_running", "running", "Requests in the running batch."),
    ("vllm:num_requests_waiting", "waiting", "Requests that wait to be scheduled."),
    ("vllm:kv_cache_usage_perc", "kv_usage", "Used part of the KV cache; 1 is full."),
)
_COUNTERS: tuple[tuple[str, str, str], ...] = (
    ("vllm:prompt_tokens", "prompt_tokens", "Prompt tokens of scheduled requests."),
    ("vllm:generation_tokens", "generation_tokens", "Tokens generated."),
    ("vllm:prefix_cache_queries", "prefix_queries", "Prompt tokens looked up in the prefix cache."),
    ("vllm:prefix_cache_hits", "prefix_hits", "Prompt tokens found in the prefix cache."),
    ("vllm:mm_cache_queries", "media_queries", "Images and sounds of scheduled requests."),
    ("vllm:mm_cache_hits", "media_hits", "Images and sounds that no encoder had to run for."),
    ("vllm:num_preemptions", "preemptions", "Requests that lost their blocks and were computed again."),
    ("vllm:spec_decode_num_draft_tokens", "draft_tokens", "Tokens proposed by speculation."),
    ("vllm:spec_decode_num_accepted_tokens", "accepted_tokens", "Proposed tokens that were kept."),
)


class _EngineCollector(Collector):
    """Reads the newest snapshots when asked. Their counters go on when an engine is started again."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterable[Metric]:
        snapshots = self._snapshots()
        for name, field, text in _GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=[_LABEL])
            for model, stats in snapshots.items():
                gauge.add_metric([model], getattr(stats, field))
            yield gauge
        for name, field, text in _COUNTERS:
            counter = CounterMetricFamily(name, text, labels=[_LABEL])
            for model, stats in snapshots.items():
                counter.add_metric([model], getattr(stats, field))
            yield counter


class ServerMetrics:
    """What a server notes about its requests, beside what its engines tell. Times in seconds."""

    def __init__(self, snapshots: Snapshots, residency: Callable[[], Mapping[str, Residency]]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineCollector(snapshots))
        self.registry.register(ResidencyCollector(residency))
        self.registry.register(MachineCollector())
        self._first_token = Histogram(
            "vllm:time_to_first_token_seconds",
            "From handing a request to the engine to its first token.",
            [_LABEL],
            buckets=_FIRST_TOKEN_S,
            registry=self.registry,
        )
        self._between = Histogram(
            "vllm:inter_token_latency_seconds",
            "Between tokens of one request.",
            [_LABEL],
            buckets=_BETWEEN_TOKENS_S,
            registry=self.registry,
        )
        self._request = Histogram(
            "vllm:e2e_request_latency_seconds",
            "From handing a request to the engine to its end.",
            [_LABEL],
            buckets=_REQUEST_S,
            registry=self.registry,
        )
        self._finished = Counter(
            "vllm:request_success",
            "Requests by how they ended.",
            [_LABEL, "finished_reason"],
            registry=self.registry,
        )

    def first_token(self, model: str, seconds: float) -> None:
        self._first_token.labels(model).observe(seconds)

    def tokens(self, model: str, count: int, seconds: float) -> None:
        """`count` tokens came `seconds` after the ones before them."""
        between = self._between.labels(model)
        for _ in range(count):
            between.observe(seconds / count)

    def finished(self, model: str, reason: str, seconds: float) -> None:
        """reason: "stop", "length", "abort" (the client left), "deadline" or "error"."""
        self._finished.labels(model, reason).inc()
        self._request.labels(model).observe(seconds)

    def exposition(self) -> bytes:
        """The text format that Prometheus scrapes; its type is CONTENT_TYPE."""
        return generate_latest(self.registry)
