"""A checkpoint of Mistral-7B's shape: pulled from a hub on loopback, loaded, served; load time and memory."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
import torch
from benchmarks.shapes import SHAPES
from safetensors.torch import save_file

from hub.fake_hub import FakeHub
from ostro.models.mistral.config import parse
from ostro.models.names import hf_names

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

REPO = "example/seven-billion"
SHARDS = 4
KV_MEMORY = 1 << 30


def write_sharded(folder: Path) -> int:
    """Random bfloat16 weights in shards with an index; returns their bytes."""
    folder.mkdir(parents=True)
    values = SHAPES["7b"]
    config = parse(values)
    sizes = {
        "embed_tokens": (config.vocab_size, config.hidden_size),
        "lm_head": (config.vocab_size, config.hidden_size),
        "q_proj": (config.num_heads * config.head_dim, config.hidden_size),
        "k_proj": (config.num_kv_heads * config.head_dim, config.hidden_size),
        "v_proj": (config.num_kv_heads * config.head_dim, config.hidden_size),
        "o_proj": (config.hidden_size, config.num_heads * config.head_dim),
        "gate_proj": (config.intermediate_size, config.hidden_size),
        "up_proj": (config.intermediate_size, config.hidden_size),
        "down_proj": (config.hidden_size, config.intermediate_size),
    }
    names = [binding.source for binding in hf_names(config)]
    pool = torch.randn(1 << 26).mul_(0.02).bfloat16()
    weight_map: dict[str, str] = {}
    total = 0
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
        tensors = {}
        for index, name in enumerate(names[shard::SHARDS]):
            kind = next((key for key in sizes if key in name), None)
            shape = sizes[kind] if kind else (config.hidden_size,)
            count = shape[0] * (shape[1] if len(shape) > 1 else 1)
            start = (index * 7919) % 4096
            repeated = pool[start:].repeat(-(-count // (len(pool) - start)))[:count]
            tensors[name] = torch.ones(shape, dtype=torch.bfloat16) if kind is None else repeated.view(shape).clone()
            weight_map[name] = file
            total += count * 2
        save_file(tensors, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map})
    )
    (folder / "config.json").write_text(json.dumps({**values, "torch_dtype": "bfloat16"}))
    return total


def ask(url: str, body: dict[str, object] | None = None, timeout: float = 600) -> dict[str, object]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        parsed: dict[str, object] = json.load(answer)
    return parsed


def peak_memory(process: psutil.Process) -> int:
    """The most memory the process ever had resident, as the kernel counts it."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def test_pull_load_and_serve_a_seven_billion_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if psutil.virtual_memory().total < 20 << 30:
        pytest.skip("a 7B shape in bfloat16 needs 20 GiB of memory")
    weights = write_sharded(tmp_path / "repos" / REPO)
    home = tmp_path / "home"
    with FakeHub({REPO: tmp_path / "repos" / REPO}) as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "OSTRO_HOME": str(home)}
        hub.listing(REPO)  # Digests of 14 GB take a while; the hub has them ready, as a real one does.
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "ostro", "pull", REPO], env=environment, check=True, timeout=1200)
        pulled = time.monotonic() - started
    server = subprocess.Popen(
        [sys.executable, "-m", "ostro", "serve", REPO, "--port", "0", "--kv-memory", str(KV_MEMORY)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        url, loaded = wait_until_ready(server)
        (engine,) = [child for child in psutil.Process(server.pid).children() if "ostro.engine" in str(child.cmdline())]
        loading_peak = peak_memory(engine)
        body = {"model": REPO, "prompt": [1, 5, 6, 7], "max_tokens": 4, "temperature": 0}
        answer = ask(f"{url}/v1/completions", body)
        assert answer["usage"]["completion_tokens"] == 4  # type: ignore[index]  # untyped JSON
        again = ask(f"{url}/v1/completions", body)
        assert again["choices"] == answer["choices"]
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        assert server.stdout is not None
        server.stdout.close()
    with capsys.disabled():
        print(
            f"\n7B shape: pulled {weights / 1e9:.1f} GB in {pulled:.0f} s, ready after {loaded:.1f} s, "
            f"peak resident memory while loading {loading_peak / 2**30:.2f} GiB = "
            f"{loading_peak / (weights + KV_MEMORY):.3f} of weights plus cache"
        )
    assert loading_peak <= 1.05 * weights + KV_MEMORY


def wait_until_ready(server: subprocess.Popen[str]) -> tuple[str, float]:
    """The server's address from its first lines, and the seconds until it is ready."""
    started = time.monotonic()
    url = ""
    assert server.stdout is not None
    for line in server.stdout:
        found = re.search(r"http://[\d.]+:\d+", line)
        if found:
            url = found[0]
            break
    while time.monotonic() - started < 900:
        try:
            ask(f"{url}/health/ready", timeout=60)
            return url, time.monotonic() - started
        except OSError:
            assert server.poll() is None
            time.sleep(0.2)
    raise AssertionError("the server did not become ready")
