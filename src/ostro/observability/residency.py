"""Which models are in memory, as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True)
class Residency:
    """One model. bytes: what it counts for in the memory budget. unloads: how often, by reason."""

    loaded: bool
    bytes: int = 0
    loads: int = 0
    failures: int = 0
    unloads: Mapping[str, int] = field(default_factory=dict)


class ResidencyCollector(Collector):
    """Asks when it is asked."""

    def __init__(self, residency: Callable[[], Mapping[str, Residency]]) -> None:
        self._residency = residency

    def collect(self) -> Iterable[Metric]:
        loaded = GaugeMetricFamily("ostro_model_loaded", "1 while the model is in memory.", labels=["model"])
        size = GaugeMetricFamily("ostro_model_memory_bytes", "What it counts for in the budget.", labels=["model"])
        loads = CounterMetricFamily("ostro_model_loads", "Times that it was loaded.", labels=["model"])
        failures = CounterMetricFamily("ostro_model_load_failures", "Times that it was not.", labels=["model"])
        unloads = CounterMetricFamily("ostro_model_unloads", "Times that it was unloaded.", labels=["model", "reason"])
        for model, now in self._residency().items():
            loaded.add_metric([model], float(now.loaded))
            size.add_metric([model], now.bytes)
            loads.add_metric([model], now.loads)
            failures.add_metric([model], now.failures)
            for reason, count in now.unloads.items():
                unloads.add_metric([model, reason], count)
        return [loaded, size, loads, failures, unloads]
