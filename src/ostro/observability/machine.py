"""What the machine of a node is busy with, as Prometheus metrics: use, memory, temperature."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import psutil
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_QUERY = ("--query-gpu=utilization.gpu,memory.used,temperature.gpu", "--format=csv,noheader,nounits")
_QUERY_S = 5.0
_MEMORY_UNIT = 1 << 20
# A reading is used for so long: several who scrape do not make it one more often.
_FRESH_S = 1.0


@dataclass(frozen=True)
class Accelerator:
    """utilization: a share of 1."""

    utilization: float
    memory_bytes: float
    temperature: float | None


def read_accelerators(csv: str) -> list[Accelerator]:
    """From the lines that `nvidia-smi` writes; those that say nothing of use are passed over.

    >>> read_accelerators("87, 1024, 61\\n[N/A], 5, 40\\n")
    [Accelerator(utilization=0.87, memory_bytes=1073741824.0, temperature=61.0)]
    """
    found = []
    for line in csv.splitlines():
        fields = [_number(field) for field in line.split(",")]
        if len(fields) == 3 and fields[0] is not None and fields[1] is not None:
            found.append(Accelerator(fields[0] / 100.0, fields[1] * _MEMORY_UNIT, fields[2]))
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def ask_accelerators() -> list[Accelerator]:
    """None where there is no driver that answers."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        done = subprocess.run([command, *_QUERY], capture_output=True, text=True, timeout=_QUERY_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return read_accelerators(done.stdout)


class MachineCollector(Collector):
    """Asks when it is asked, at most once a second. What engines compute on counts as the device: accelerators where
    there are any, the processor elsewhere."""

    def __init__(self, ask: Callable[[], Sequence[Accelerator]] = ask_accelerators) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._found: list[Metric] = []
        self._read_at = float("-inf")
        self._process = psutil.Process()
        psutil.cpu_percent()  # the first reading is since this one

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            if time.monotonic() - self._read_at > _FRESH_S:
                self._found = list(self._read())
                self._read_at = time.monotonic()
            return self._found

    def _read(self) -> Iterable[Metric]:
        accelerators = self._ask()
        used = max((one.utilization for one in accelerators), default=psutil.cpu_percent() / 100.0)
        yield GaugeMetricFamily(
            "ostro_device_utilization", "Use of what the engines compute on; 1 is full.", value=min(1.0, used)
        )
        yield GaugeMetricFamily(
            "ostro_memory_bytes", "Resident memory of the server and its engines.", value=self._resident()
        )
        yield GaugeMetricFamily(
            "ostro_device_memory_bytes",
            "Memory in use on the accelerators.",
            value=sum(one.memory_bytes for one in accelerators),
        )
        temperatures = GaugeMetricFamily("ostro_temperature_celsius", "As sensors tell.", labels=["sensor"])
        for index, one in enumerate(accelerators):
            if one.temperature is not None:
                temperatures.add_metric([f"accelerator {index}"], one.temperature)
        for name, celsius in _sensors().items():
            temperatures.add_metric([name], celsius)
        yield temperatures

    def _resident(self) -> float:
        total = 0.0
        for process in [self._process, *self._process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):  # it has just ended
                total += process.memory_info().rss
        return total


def _sensors() -> dict[str, float]:
    """The hottest of each chip. Not every system has any."""
    read = getattr(psutil, "sensors_temperatures", None)
    found = read() if read is not None else {}
    return {chip: max(one.current for one in sensors) for chip, sensors in found.items() if sensors}
