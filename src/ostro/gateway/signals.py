"""How busy a node is, by the metrics that it tells itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Of several models on one node, those of the busiest count.
_NAMES = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv_usage",
    "vllm:gpu_cache_usage_perc": "kv_usage",
    "ostro_device_utilization": "device",
}


@dataclass(frozen=True, kw_only=True)
class Signals:
    """running, waiting: requests. kv_usage, device: shares of 1."""

    running: float = 0.0
    waiting: float = 0.0
    kv_usage: float = 0.0
    device: float = 0.0

    def load(self, capacity: int, sent: int) -> float:
        """From 0 to 1, the busiest part counting. sent: requests that are there from here, known before it tells."""
        queue = max(self.running + self.waiting, float(sent)) / capacity
        return min(1.0, max(self.kv_usage, queue, self.device))


def read_signals(exposition: str) -> Signals:
    """From the text format of Prometheus. Lines that say nothing of this are passed over, broken ones as well.

    >>> read_signals('vllm:num_requests_running{model_name="a"} 2.0\\nvllm:num_requests_running{model_name="b"} 1.0')
    Signals(running=3.0, waiting=0.0, kv_usage=0.0, device=0.0)
    """
    found: dict[str, float] = {}
    for line in exposition.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        field = _NAMES.get(name)
        if field is None:
            continue
        value = _number(line)
        if value is not None:
            found[field] = (
                found.get(field, 0.0) + value if field in ("running", "waiting") else max(found.get(field, 0.0), value)
            )
    return Signals(**_within(found))


def _number(line: str) -> float | None:
    # A value may be followed by a time, which nodes here do not write.
    try:
        value = float(line.rpartition("}")[2].split()[0] if "}" in line else line.split()[1])
    except (ValueError, IndexError):
        return None
    return value if value >= 0.0 else None  # NaN is not, either


def _within(found: Mapping[str, float]) -> dict[str, float]:
    return {
        name: min(value, 1.0) if name in ("kv_usage", "device") else min(value, 1e9) for name, value in found.items()
    }
