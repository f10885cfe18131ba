"""128 concurrent streams over HTTP against a real server: all finish; first token and between chunks, p50 and p99.

The peer is `LLM.generate` on the same requests, without HTTP: what the server costs. Clients are one process with plain
sockets that reads and counts, and shares the machine with the server.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field

from benchmarks.http_cost import with_tokenizer
from benchmarks.peers import greedy, random_prompt
from benchmarks.report import arguments, cache_folder, interleave, report
from benchmarks.shapes import make_checkpoint
from benchmarks.streams import NEW, PROMPT, STREAMS, percentiles
from ostro import LLM

_TOKENS = re.compile(rb'"completion_tokens":(\d+)')


@dataclass
class Times:
    """Seconds to first chunks, and between chunks."""

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)


async def stream(port: int, index: int, times: Times) -> None:
    body = json.dumps(
        {
            "prompt": random_prompt(PROMPT, index),
            "max_tokens": NEW,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    started = last = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    received = b""
    while b"[DONE]" not in received[-64:]:
        piece = await reader.read(65_536)
        assert piece, received
        received += piece
        if b"data: {" in piece:
            now = time.perf_counter()
            (times.first if last == started else times.between).append(now - last)
            last = now
    writer.close()
    assert received.startswith(b"HTTP/1.1 200"), received
    assert [int(found) for found in _TOKENS.findall(received)] == [NEW]


async def load(port: int, first: int, count: int, times: Times) -> float:
    """Tokens per second of streams that begin at once. first: number of their first prompt."""
    started = time.perf_counter()
    await asyncio.gather(*(stream(port, first + index, times) for index in range(count)))
    return count * NEW / (time.perf_counter() - started)


def serve(folder: str, streams: int) -> tuple[subprocess.Popen[str], int]:
    """Start a server on a free port; returns it and its port when it is ready."""
    command = [sys.executable, "-m", "ostro", "serve", folder, "--port", "0", "--max-num-seqs", str(streams)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        if found := re.search(r"ready: http://\S+:(\d+)", line):
            return server, int(found[1])
    raise RuntimeError("the server ended before it was ready")


def main() -> None:
    args = arguments(__doc__)
    folder = with_tokenizer(make_checkpoint(args.shape, cache_folder(args)))
    llm = LLM(folder, device="cpu", max_num_seqs=STREAMS)
    times = Times()
    rounds = 0

    def ours() -> float:
        nonlocal rounds
        rounds += 1  # other prompts each time, so that none is in a cache
        return asyncio.run(load(port, rounds * STREAMS, STREAMS, times))

    def peer() -> float:
        prompts = [random_prompt(PROMPT, rounds * STREAMS + index) for index in range(STREAMS)]
        started = time.perf_counter()
        outputs = llm.generate(prompts, greedy(NEW), progress=False)
        assert [len(output.token_ids) for output in outputs] == [NEW] * STREAMS
        return STREAMS * NEW / (time.perf_counter() - started)

    server, port = serve(str(folder), STREAMS)
    try:
        rate, offline = interleave(args.rounds, ours, peer)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    report(
        args,
        "http_streams",
        "tokens/s",
        rate,
        offline,
        lower=False,
        streams=STREAMS,
        first_token_p50_p99_s=percentiles(times.first),
        between_chunks_p50_p99_s=percentiles(times.between),
        peer_name="LLM.generate, without HTTP",
    )


if __name__ == "__main__":
    main()
