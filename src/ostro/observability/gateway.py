"""What a gateway tells Prometheus: what is asked, how fast, at whose cost, and how its nodes are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

_CALL_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
_OWN_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


@dataclass(frozen=True, kw_only=True)
class NodeState:
    """A node as its gateway sees it. load, kv_usage, device: shares of 1."""

    name: str
    answers: bool
    load: float
    in_flight: int
    capacity: int
    kv_usage: float
    device: float
    waiting: float


@dataclass(frozen=True, kw_only=True)
class GatewayState:
    """calls: that run now. spilling: whether low-priority ones leave the accelerators. ledger_waiting: what the ledger
    has been asked and has not written. cache_hits, cache_misses: since the start; cache_bytes: that it holds."""

    nodes: tuple[NodeState, ...]
    calls: int
    spilling: bool
    ledger_waiting: int
    cache_hits: int
    cache_misses: int
    cache_bytes: int


_NODE_GAUGES: tuple[tuple[str, str, str], ...] = (
    ("ostro_gateway_node_up", "answers", "1 while requests are sent to the node."),
    ("ostro_gateway_node_load", "load", "The largest of its queue, cache and device use; 1 is full."),
    ("ostro_gateway_node_in_flight", "in_flight", "Requests of this gateway that it has."),
    ("ostro_gateway_node_capacity", "capacity", "Requests that it may have at a time."),
    ("ostro_gateway_node_kv_usage", "kv_usage", "Used part of its KV cache, as it tells."),
    ("ostro_gateway_node_device_utilization", "device", "Use of its processor or accelerator, as it tells."),
    ("ostro_gateway_node_waiting", "waiting", "Requests that wait there, as it tells."),
)


class _StateCollector(Collector):
    """Asks when it is asked."""

    def __init__(self, state: Callable[[], GatewayState]) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        state = self._state()
        for name, field, text in _NODE_GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=["node"])
            for node in state.nodes:
                gauge.add_metric([node.name], float(getattr(node, field)))
            yield gauge
        yield GaugeMetricFamily("ostro_gateway_calls_running", "Calls under way.", value=state.calls)
        yield GaugeMetricFamily(
            "ostro_gateway_spilling", "1 while low-priority calls leave the accelerators.", value=float(state.spilling)
        )
        yield GaugeMetricFamily(
            "ostro_gateway_ledger_waiting", "Entries that are not written yet.", value=state.ledger_waiting
        )
        yield CounterMetricFamily("ostro_gateway_cache_hits", "Answers from the cache.", value=state.cache_hits)
        yield CounterMetricFamily(
            "ostro_gateway_cache_misses", "Requests that the cache had no answer to.", value=state.cache_misses
        )
        yield GaugeMetricFamily("ostro_gateway_cache_bytes", "What the cache holds.", value=state.cache_bytes)


class GatewayMetrics:
    """Counters of one gateway, in a registry of its own. Times in seconds. Tenants and keys are no labels: there may be
    many, and `/v1/usage` tells of them."""

    def __init__(self, state: Callable[[], GatewayState]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_StateCollector(state))
        self._calls = Counter(
            "ostro_gateway_calls",
            "Calls by how they ended: ok, refused (by the node), error, disconnect.",
            ["model", "endpoint", "outcome"],
            registry=self.registry,
        )
        self._refusals = Counter(
            "ostro_gateway_refusals",
            "Requests that were sent to no node, by the code of the error.",
            ["code"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "ostro_gateway_call_seconds",
            "From the request to the last byte of its answer.",
            ["model"],
            buckets=_CALL_S,
            registry=self.registry,
        )
        self._first = Histogram(
            "ostro_gateway_first_byte_seconds",
            "From the request to the first byte of its answer.",
            ["model"],
            buckets=_CALL_S,
            registry=self.registry,
        )
        self._own = Histogram(
            "ostro_gateway_own_seconds",
            "From the request to its being sent to a node: keys, limits, the ledger and routing.",
            buckets=_OWN_S,
            registry=self.registry,
        )
        self._routed = Counter(
            "ostro_gateway_routed", "Requests sent to a node.", ["node", "model"], registry=self.registry
        )
        self._failures = Counter(
            "ostro_gateway_node_failures", "Requests that a node did not answer.", ["node"], registry=self.registry
        )
        self._tokens = Counter(
            "ostro_gateway_tokens", "Tokens of prompts and answers.", ["model", "kind"], registry=self.registry
        )
        self._charged = Counter(
            "ostro_gateway_charged_usd", "What calls were charged, in US dollars.", ["tier"], registry=self.registry
        )

    def routed(self, node: str, model: str, seconds: float | None) -> None:
        """seconds: since the request came, for the first node that is tried."""
        self._routed.labels(node, model).inc()
        if seconds is not None:
            self._own.observe(seconds)

    def node_failed(self, node: str) -> None:
        self._failures.labels(node).inc()

    def refused(self, code: str) -> None:
        self._refusals.labels(code).inc()

    def first_byte(self, model: str, seconds: float) -> None:
        self._first.labels(model).observe(seconds)

    def ended(
        self,
        model: str,
        endpoint: str,
        outcome: str,
        seconds: float,
        *,
        tier: str,
        prompt: int,
        completion: int,
        usd: float,
    ) -> None:
        self._calls.labels(model, endpoint, outcome).inc()
        self._seconds.labels(model).observe(seconds)
        self._tokens.labels(model, "prompt").inc(prompt)
        self._tokens.labels(model, "completion").inc(completion)
        self._charged.labels(tier).inc(usd)

    def exposition(self) -> bytes:
        """The text format that Prometheus scrapes; its type is `metrics.CONTENT_TYPE`."""
        return generate_latest(self.registry)
