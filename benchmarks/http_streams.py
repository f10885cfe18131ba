"""128 concurrent streams over HTTP against a real server: all finish; first token and between chunks, p50 and p99.

The peer is the same engine in this process, without HTTP, on the same 128 requests: what the server costs.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time

import httpx2

from benchmarks.peers import load_ours, random_prompt
from benchmarks.report import arguments, cache_folder, report
from benchmarks.shapes import make_checkpoint
from benchmarks.streams import NEW, PROMPT, STREAMS, percentiles, run


async def stream(client: httpx2.AsyncClient, model: str, index: int) -> tuple[float, list[float], int]:
    """Seconds to the first chunk, seconds between chunks, tokens."""
    body = {
        "model": model,
        "prompt": random_prompt(PROMPT, index),
        "max_tokens": NEW,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started = last = time.perf_counter()
    first, gaps, tokens = 0.0, [], 0
    async with client.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            now = time.perf_counter()
            if first:
                gaps.append(now - last)
            else:
                first = now - started
            last = now
            usage = json.loads(line[6:]).get("usage")
            tokens = usage["completion_tokens"] if usage else tokens
    return first, gaps, tokens


async def load(url: str, model: str) -> tuple[float, list[float], list[float]]:
    limits = httpx2.Limits(max_connections=STREAMS)
    async with httpx2.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        await asyncio.gather(*(stream(client, model, index) for index in range(4)))
        started = time.perf_counter()
        results = await asyncio.gather(*(stream(client, model, index) for index in range(STREAMS)))
        seconds = time.perf_counter() - started
    assert [tokens for _, _, tokens in results] == [NEW] * STREAMS
    return STREAMS * NEW / seconds, [first for first, _, _ in results], [gap for _, gaps, _ in results for gap in gaps]


def serve(folder: str) -> tuple[subprocess.Popen[str], str]:
    """Start a server on a free port; returns it and its address when it is ready."""
    command = [sys.executable, "-m", "ostro", "serve", folder, "--port", "0", "--max-num-seqs", str(STREAMS)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        if found := re.search(r"ready: (http://\S+)", line):
            return server, found[1]
    raise RuntimeError("the server ended before it was ready")


def main() -> None:
    args = arguments(__doc__)
    folder = make_checkpoint(args.shape, cache_folder(args))
    server, url = serve(str(folder))
    try:
        rate, first, between = asyncio.run(load(url, folder.name))
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    llm = load_ours(args, max_num_seqs=STREAMS, prefix_caching=False)
    run(llm, 4)
    offline, _, _ = run(llm, STREAMS)
    report(
        args,
        "http_streams",
        "tokens/s",
        rate,
        offline,
        lower=False,
        streams=STREAMS,
        first_token_p50_p99_s=percentiles(first),
        between_chunks_p50_p99_s=percentiles(between),
        peer_name="the same engine without HTTP",
    )


if __name__ == "__main__":
    main()
