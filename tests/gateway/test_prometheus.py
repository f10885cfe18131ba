"""What is in `deploy`: checked by promtool, run by a real Prometheus, and about metrics that there are."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from running import RunningGateway, asking, node, settings
from stub_node import StubNode

from ostro.core.request import EngineStats
from ostro.observability.gateway import GatewayMetrics, GatewayState, NodeState
from ostro.observability.machine import Accelerator, MachineCollector
from ostro.observability.metrics import ServerMetrics
from ostro.observability.residency import Residency

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed; on Debian: apt-get install prometheus"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.mark.parametrize("command", [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]])
def test_promtool_finds_nothing_wrong(command: list[str]) -> None:
    done = subprocess.run([tool("promtool"), *command], cwd=PROMETHEUS, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_is_one(tmp_path: Path) -> None:
    shutil.copytree(PROMETHEUS, tmp_path, dirs_exist_ok=True)
    for name in ("gateway.key", "node.key"):
        (tmp_path / name).write_text("key")
    command = [tool("promtool"), "check", "config", "prometheus.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried_and_says_what_to_do() -> None:
    rules = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]
    alerts = {rule["alert"]: rule for rule in rules if "alert" in rule}
    tried = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    assert {test["alert_rule_test"][0]["alertname"] for test in tried} == set(alerts)
    assert all(alert["annotations"].keys() == {"summary", "action"} for alert in alerts.values())


def known_metrics() -> set[str]:
    """All that gateways and nodes tell, whatever happened to them so far."""
    state = NodeState(
        name="n", answers=True, load=0.5, in_flight=1, capacity=2, kv_usage=0.1, device=0.2, waiting=0.0
    )  # fmt: skip
    gateway = GatewayMetrics(
        lambda: GatewayState(
            nodes=(state,), calls=0, spilling=False, ledger_waiting=0, cache_hits=0, cache_misses=0, cache_bytes=0
        )
    )
    gateway.routed("n", "m", 0.1)
    gateway.node_failed("n")
    gateway.refused("x")
    gateway.first_byte("m", 0.1)
    gateway.ended("m", "/v1/x", "ok", 0.1, tier="t", prompt=1, completion=1, usd=0.1)
    server = ServerMetrics(lambda: {"m": EngineStats()}, lambda: {"m": Residency(loaded=True, unloads={"idle": 1})})
    server.first_token("m", 0.1)
    server.tokens("m", 1, 0.1)
    server.finished("m", "stop", 0.1)
    machine = MachineCollector(lambda: [Accelerator(0.5, 1.0, 60.0)])
    text = (gateway.exposition() + server.exposition()).decode()
    names = set(re.findall(r"^([a-zA-Z_:]+)(?:\{| )", text, re.MULTILINE))
    return names | {family.name for family in machine.collect()} | {"up"}


def named(expression: str) -> set[str]:
    """The metrics in an expression of PromQL."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|without)\s*\([^)]*\)", "", expression)
    words = set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", bare))
    return words - {"sum", "max", "min", "rate", "increase", "histogram_quantile", "job", "le"}


def test_dashboard_and_alerts_are_about_metrics_that_there_are() -> None:
    rules = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]
    known = known_metrics() | {rule["record"] for rule in rules if "record" in rule}
    for rule in rules:
        assert named(rule["expr"]) <= known, rule
    dashboard = json.loads((DEPLOY / "grafana" / "ostro.json").read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(shown) > 25
    for expression in shown:
        assert named(expression) <= known, expression


def test_at_least_the_twelve_that_an_operator_needs_are_told() -> None:
    needed = {
        "ostro_gateway_calls_total", "ostro_gateway_call_seconds_bucket", "ostro_gateway_first_byte_seconds_bucket",
        "ostro_gateway_own_seconds_bucket", "ostro_gateway_refusals_total", "ostro_gateway_tokens_total",
        "ostro_gateway_charged_usd_total", "ostro_gateway_node_up", "ostro_gateway_node_load",
        "ostro_gateway_node_failures_total", "ostro_gateway_calls_running", "ostro_gateway_cache_hits_total",
        "ostro_device_utilization", "ostro_memory_bytes", "ostro_temperature_celsius", "vllm:request_success_total",
        "vllm:kv_cache_usage_perc",
    }  # fmt: skip
    assert needed <= known_metrics()


@contextmanager
def prometheus(folder: Path, targets: dict[str, str], key: str) -> Iterator[httpx2.Client]:
    """A server with the configuration of `deploy`, but for where things are. targets: by job."""
    shutil.copytree(PROMETHEUS, folder)
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "200ms", "evaluation_interval": "200ms", "scrape_timeout": "200ms"}
    config["scrape_configs"] = [one for one in config["scrape_configs"] if one["job_name"] in targets]
    for one in config["scrape_configs"]:
        one["static_configs"] = [{"targets": [targets[one["job_name"]]]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "gateway.key").write_text(key)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        tool("prometheus"), "--config.file=prometheus.yml", "--storage.tsdb.path=data",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            yield client
    finally:
        process.terminate()
        process.wait(20)


def asked(client: httpx2.Client, expression: str, seconds: float = 30.0) -> list[Any]:
    """The first answer that is not empty."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            found = client.get("/api/v1/query", params={"query": expression}).json()["data"]["result"]
        except (httpx2.TransportError, ValueError):
            found = []
        if found:
            return list(found)
        time.sleep(0.1)
    raise AssertionError(f"{expression} has no value")


def test_a_real_prometheus_reads_a_gateway_and_sees_a_node_die(tmp_path: Path) -> None:
    tool("prometheus")
    with StubNode() as stub, RunningGateway(tmp_path, settings(node(stub.url))) as gateway:
        key = gateway.key(watches=True)
        gateway.wait_for(key)
        with gateway.client(key) as client:
            for _ in range(5):
                assert client.post("/v1/chat/completions", json=asking("ok")).status_code == 200
        target = gateway.url.removeprefix("http://")
        with prometheus(tmp_path / "prometheus", {"ostro-gateway": target}, key) as client:
            assert asked(client, 'up{job="ostro-gateway"} == 1')
            (calls,) = asked(client, 'ostro_gateway_calls_total{outcome="ok"}')
            assert calls["value"][1] == "5"
            assert asked(client, "ostro_gateway_node_up == 1")
            stub.ready = False
            assert asked(client, "ostro_gateway_node_up == 0")
            (alert,) = asked(client, 'ALERTS{alertname="OstroNodeDown"}')
            assert alert["metric"]["node"] == "stub"
            rules = client.get("/api/v1/rules").json()["data"]["groups"][0]["rules"]
            assert {rule["health"] for rule in rules} == {"ok"}
