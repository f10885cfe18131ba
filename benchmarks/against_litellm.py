"""The gateway against LiteLLM's proxy, in front of the same stub upstream, in turns: what each adds to a call, how many
calls a second a core answers, and what a chunk of a stream takes longer.

Ours runs with keys, limits, prices and a ledger (SQLite) that settles each call. LiteLLM's proxy checks a key and has
no database, so it keeps no ledger: that is in its favour. It runs in an environment of its own:

    python -m venv /tmp/litellm && /tmp/litellm/bin/pip install 'litellm[proxy]'
    python -m benchmarks.against_litellm --litellm /tmp/litellm/bin/litellm
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil

MODEL = "stub"
CHUNKS, CHUNK_EVERY_S = 100, 0.005
STUB = """
import asyncio, json, sys, time
import uvicorn
ANSWER = json.dumps({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "stub",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello there"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}}).encode()
def chunk(content, **more):
    one = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "stub",
           "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}], **more}
    return b"data: " + json.dumps(one).encode() + b"\\n\\n"
async def app(scope, receive, send):
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    asked = json.loads(body or b"{}")
    if not asked.get("stream"):
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": ANSWER})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for _ in range(CHUNKS):
        await asyncio.sleep(EVERY)
        data = chunk(f"{time.monotonic_ns()} ")
        await send({"type": "http.response.body", "body": data, "more_body": True})
    end = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "stub",
           "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    usage = {**end, "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": CHUNKS, "total_tokens": 109}}
    last = b"".join(b"data: " + json.dumps(one).encode() + b"\\n\\n" for one in (end, usage)) + b"data: [DONE]\\n\\n"
    await send({"type": "http.response.body", "body": last})
config = uvicorn.Config(app, port=int(sys.argv[1]), log_level="error", access_log=False, lifespan="off",
                        http="httptools", loop="uvloop")
uvicorn.Server(config).run()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Proxy:
    """A server to ask. process: None where its own use does not matter."""

    def __init__(self, name: str, url: str, key: str, process: subprocess.Popen[bytes]) -> None:
        self.name, self.url, self.key = name, f"{url}/v1/chat/completions", key
        self._process = psutil.Process(process.pid)

    def cpu_s(self) -> float:
        """Of it and its children."""
        times = [one.cpu_times() for one in (self._process, *self._process.children(recursive=True))]
        return sum(one.user + one.system for one in times)

    def session(self) -> aiohttp.ClientSession:
        headers = {"authorization": f"Bearer {self.key}"}
        return aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0))


def body(stream: bool = False) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "stream": stream}


async def _ask(session: aiohttp.ClientSession, proxy: Proxy) -> float:
    started = time.perf_counter()
    async with session.post(proxy.url, json=body()) as response:
        answer = await response.read()
        assert response.status == 200, answer[:300]
    return time.perf_counter() - started


async def latency_s(proxy: Proxy, calls: int) -> float:
    """Median of calls one after the other."""
    async with proxy.session() as session:
        return statistics.median([await _ask(session, proxy) for _ in range(calls)])


async def throughput(proxy: Proxy, calls: int, at_once: int) -> tuple[float, float]:
    """Calls a second, and calls a second of its processor's time."""
    numbers = iter(range(calls))
    async with proxy.session() as session:

        async def client() -> None:
            for _ in numbers:
                await _ask(session, proxy)

        used, started = proxy.cpu_s(), time.perf_counter()
        await asyncio.gather(*(client() for _ in range(at_once)))
        seconds, used = time.perf_counter() - started, proxy.cpu_s() - used
    return calls / seconds, calls / used


async def chunk_delay_s(proxy: Proxy, streams: int) -> float:
    """Median, over the chunks of some streams one after the other, from the stub's sending to the client's reading."""
    delays: list[float] = []
    async with proxy.session() as session:
        for _ in range(streams):
            async with session.post(proxy.url, json=body(stream=True)) as response:
                async for line in response.content:
                    if line.startswith(b'data: {"'):
                        now = time.monotonic_ns()
                        choices = json.loads(line[6:]).get("choices") or [{}]
                        said = (choices[0].get("delta") or {}).get("content")
                        if said and said.strip().isdecimal():
                            delays.append((now - int(said)) / 1e9)
    return statistics.median(delays)


@contextmanager
def process(command: list[str], url: str, key: str, log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers a call within two minutes."""
    with log.open("wb") as out:
        running = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **environment})
    try:
        asyncio.run(_until_it_answers(url, key, log))
        yield running
    finally:
        running.terminate()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()


async def _until_it_answers(url: str, key: str, log: Path) -> None:
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session:
        for _ in range(1200):
            try:
                async with session.post(f"{url}/v1/chat/completions", json=body()) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise SystemExit(f"{url} does not answer:\n{log.read_text()[-2000:]}")


@contextmanager
def servers(litellm: str, folder: Path) -> Iterator[dict[str, Proxy]]:
    """The stub, and both proxies in front of it."""
    ports = {name: free_port() for name in ("stub", "ostro", "litellm")}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    (folder / "stub.py").write_text(STUB.replace("CHUNKS", str(CHUNKS)).replace("EVERY", str(CHUNK_EVERY_S)))
    config = folder / "gateway.yaml"
    config.write_text(
        f"""
nodes: [{{name: stub, url: {urls["stub"]}, models: [{{name: {MODEL}}}], capacity: 1000}}]
tiers: {{commercial: {{price: {{call: 0.002}}, requests_per_minute: 100000000, tokens_per_minute: 1000000000}}}}
"""
    )
    (folder / "litellm.yaml").write_text(
        f"""
model_list:
  - model_name: {MODEL}
    litellm_params: {{model: openai/{MODEL}, api_base: {urls["stub"]}/v1, api_key: none}}
general_settings: {{master_key: sk-master}}
litellm_settings: {{telemetry: false}}
"""
    )
    ostro = [sys.executable, "-m", "ostro"]
    wanted = ["--name", "bench", "--tier", "commercial", "--budget", "100000"]
    made = subprocess.run(
        [*ostro, "keys", "create", "--config", str(config), *wanted], capture_output=True, text=True, check=True
    )
    keys = {"stub": "none", "ostro": made.stdout.strip(), "litellm": "sk-master"}
    commands = {
        "stub": [sys.executable, str(folder / "stub.py"), str(ports["stub"])],
        "ostro": [*ostro, "gateway", "--config", str(config), "--port", str(ports["ostro"])],
        "litellm": [litellm, "--config", str(folder / "litellm.yaml"), "--port", str(ports["litellm"])],
    }
    with ExitStack() as stack:
        found = {}
        for name, command in commands.items():
            running = stack.enter_context(process(command, urls[name], keys[name], folder / f"{name}.log"))
            found[name] = Proxy(name, urls[name], keys[name], running)
        yield found


def measure(proxies: dict[str, Proxy], rounds: int, calls: int, at_once: int) -> dict[str, dict[str, float]]:
    """By server the medians over rounds, in which all take turns."""
    figures: dict[str, dict[str, list[float]]] = {name: {} for name in proxies}
    for turn in range(rounds + 1):
        for name, proxy in proxies.items():
            many = calls if name != "litellm" else max(50, calls // 10)  # or it would take the most of an hour
            rate, per_core = asyncio.run(throughput(proxy, many, at_once))
            found = {
                "latency_ms": 1000 * asyncio.run(latency_s(proxy, 100)),
                "calls_per_s": rate,
                "calls_per_core_s": per_core,
                "chunk_ms": 1000 * asyncio.run(chunk_delay_s(proxy, 3)),
            }
            if turn:  # the first one warms up
                for what, value in found.items():
                    figures[name].setdefault(what, []).append(value)
    return {
        name: {what: statistics.median(values) for what, values in found.items()} for name, found in figures.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--litellm", required=True, help="the command of the environment that has it")
    parser.add_argument("--json", action="store_true", help="print only the last line, one JSON object")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=3000, help="of a round at the highest rate")
    parser.add_argument("--at-once", type=int, default=32)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, servers(args.litellm, Path(folder)) as proxies:
        figures = measure(proxies, args.rounds, args.calls, args.at_once)
    stub, ours, peer = figures["stub"], figures["ostro"], figures["litellm"]
    added = {name: figures[name]["latency_ms"] - stub["latency_ms"] for name in ("ostro", "litellm")}
    if not args.json:
        for name, found in figures.items():
            print(name, {what: round(value, 3) for what, value in found.items()})
    result = {
        "benchmark": "against_litellm",
        "ratio": round(added["litellm"] / added["ostro"], 2),
        "ours": round(added["ostro"], 3),
        "peer": round(added["litellm"], 3),
        "unit": "ms added to a call",
        "calls_per_core_ratio": round(ours["calls_per_core_s"] / peer["calls_per_core_s"], 2),
        "calls_per_core_ours": round(ours["calls_per_core_s"], 1),
        "calls_per_core_peer": round(peer["calls_per_core_s"], 1),
        "chunk_added_ms": round(ours["chunk_ms"] - stub["chunk_ms"], 3),
        "chunk_added_ms_peer": round(peer["chunk_ms"] - stub["chunk_ms"], 3),
        "figures": {name: {what: round(value, 3) for what, value in found.items()} for name, found in figures.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
