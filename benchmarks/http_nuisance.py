"""What 16 streams get while others misbehave, against the same streams alone: does the engine slow down?

Others: 1,000 connections that say nothing, 16 with half a body, 8 that ask for a stream and read nothing of it (their
answers are computed, so the same 8 answers run in the quiet rounds too, read as they come), and clients that connect,
send half a header and leave, twenty a second. Afterwards no block of the cache may be in use.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import resource
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from benchmarks.http_cost import with_tokenizer
from benchmarks.report import arguments, cache_folder, interleave, report
from benchmarks.shapes import make_checkpoint

STREAMS, NEW = 16, 96
IDLE, HALF, DEAF = 1000, 16, 8


def request(index: int, content: bytes | None = None) -> bytes:
    body = (
        content
        or json.dumps(
            {
                "messages": [{"role": "user", "content": f"Tell me about the number {index}."}],
                "max_tokens": NEW,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
            }
        ).encode()
    )
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def streamed(port: int, index: int) -> None:
    """One stream, read as it comes, over a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(index))
    last = b""
    while piece := await reader.read(65_536):
        last = (last + piece)[-64:]
        if b"[DONE]" in last:
            break
    writer.close()


async def come_and_go(port: int) -> None:
    while True:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: loc")
        await asyncio.sleep(0.1)
        writer.transport.abort()


@asynccontextmanager
async def nuisance(port: int) -> AsyncIterator[None]:
    """All the others, for as long as the block runs. Those that read nothing have small buffers to fill."""
    opened = []
    for index in range(IDLE + HALF + DEAF):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        opened.append((reader, writer))
        if index >= IDLE + HALF:
            writer.write(request(1000 + index))
            reader._transport.pause_reading()  # type: ignore[attr-defined]  # only the transport can pause
        elif index >= IDLE:
            writer.write(request(index)[:-20])
    leaving = [asyncio.create_task(come_and_go(port)) for _ in range(2)]
    try:
        yield
    finally:
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        for _, writer in opened:
            writer.transport.abort()


async def quiet_round(port: int) -> float:
    beside = [asyncio.create_task(streamed(port, 2000 + index)) for index in range(DEAF)]
    started = time.perf_counter()
    await asyncio.gather(*(streamed(port, index) for index in range(STREAMS)))
    seconds = time.perf_counter() - started
    await asyncio.gather(*beside)
    return STREAMS * NEW / seconds


async def loud_round(port: int) -> float:
    async with nuisance(port):
        started = time.perf_counter()
        await asyncio.gather(*(streamed(port, index) for index in range(STREAMS)))
        return STREAMS * NEW / (time.perf_counter() - started)


def metric(url: str, name: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(name + "{")).rsplit(" ", 1)[1])


def main() -> None:
    args = arguments(__doc__)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192), most))
    folder: Path = with_tokenizer(make_checkpoint(args.shape, cache_folder(args)))
    command = [sys.executable, "-m", "ostro", "serve", str(folder), "--port", "0", "--max-num-seqs", "32"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = next(found[1] for line in server.stdout if (found := re.search(r"ready: (http://\S+)", line)))
        port = int(url.rsplit(":", 1)[1])
        grown: list[int] = []

        def loud() -> float:
            rate = asyncio.run(loud_round(port))
            while metric(url, "vllm:num_requests_running") or metric(url, "vllm:num_requests_waiting"):
                time.sleep(0.1)
            grown.append(psutil.Process(server.pid).memory_info().rss)
            return rate

        ours, peer = interleave(args.rounds, loud, lambda: asyncio.run(quiet_round(port)))
        used = metric(url, "vllm:kv_cache_usage_perc")
    finally:
        server.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(60)
    assert used == 0, f"{used:.1%} of the cache is still in use"
    report(
        args,
        "http_nuisance",
        "tokens/s",
        ours,
        peer,
        lower=False,
        streams=STREAMS,
        idle=IDLE,
        server_grew_mib=round((grown[-1] - grown[0]) / 2**20, 1),
        peer_name="the same streams alone",
    )


if __name__ == "__main__":
    main()
