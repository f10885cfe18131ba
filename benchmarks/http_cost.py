"""CPU time of the server process for each streamed token, and for each request, with 64 chat streams at once.

Two loads of different lengths tell the two apart: what the longer one takes more is its tokens' cost. The engine runs
in a process of its own, so what the server's process uses is the cost of HTTP: taking events over, turning tokens into
text, parsing, JSON, SSE, sockets. The peer is the floor: uvicorn and Starlette alone, sending as many ready-made chunks
of the same size. Chunks coalesce when the server is behind, so there may be fewer than tokens.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import httpx2
import mistral_common
import psutil

from benchmarks.report import arguments, cache_folder, interleave, report
from benchmarks.shapes import make_checkpoint

STREAMS, SHORT, LONG = 64, 32, 288
FLOOR = """
import json, os, sys
import uvicorn
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route
chunk = {"id": "chatcmpl-" + "0" * 24, "object": "chat.completion.chunk", "created": 1, "model": "floor",
         "choices": [{"index": 0, "delta": {"content": " word"}, "logprobs": None, "finish_reason": None}]}
frame = b"data: " + json.dumps(chunk).encode() + b"\\n\\n"
async def answer(request):
    import asyncio
    wanted = (await request.json())["max_tokens"]
    async def frames():
        for _ in range(wanted):
            yield frame
            await asyncio.sleep(0.02)
        yield b"data: [DONE]\\n\\n"
    return StreamingResponse(frames(), media_type="text/event-stream")
import socket
listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
print(f"ready: http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
app = Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])])
uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])
"""


async def stream(client: httpx2.AsyncClient, index: int, tokens: int) -> int:
    """Chunks that carried something."""
    body = {
        "messages": [{"role": "user", "content": f"Tell me about the number {index}."}],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    chunks = 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            chunks += line.startswith("data: {")
    return chunks


async def load(url: str, streams: int, tokens: int) -> int:
    limits = httpx2.Limits(max_connections=streams)
    async with httpx2.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        return sum(await asyncio.gather(*(stream(client, index, tokens) for index in range(streams))))


def cost(command: list[str]) -> tuple[float, float, float]:
    """CPU microseconds of the server's own process for each token, milliseconds for each request, and chunks for each
    token."""
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = next(found[1] for line in server.stdout if (found := re.search(r"ready: (http://\S+)", line)))
        asyncio.run(load(url, STREAMS, 4))
        short, _ = used(server.pid, url, SHORT)
        long, chunks = used(server.pid, url, LONG)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    token = (long - short) / (STREAMS * (LONG - SHORT))
    return token * 1e6, (short / STREAMS - SHORT * token) * 1e3, chunks / (STREAMS * LONG)


def used(pid: int, url: str, tokens: int) -> tuple[float, int]:
    """CPU seconds of a load, and its chunks."""
    before = psutil.Process(pid).cpu_times()
    chunks = asyncio.run(load(url, STREAMS, tokens))
    after = psutil.Process(pid).cpu_times()
    return after.user + after.system - before.user - before.system, chunks


def with_tokenizer(folder: Path) -> Path:
    """A copy of a random checkpoint (links) with a real tokenizer of the same vocabulary size beside it."""
    there = folder.with_name(folder.name + "-chat")
    there.mkdir(exist_ok=True)
    for source in folder.iterdir():
        if not (there / source.name).exists():
            (there / source.name).symlink_to(source.resolve())
    shutil.copy(Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1", there)
    return there


def main() -> None:
    args = arguments(__doc__)
    folder = with_tokenizer(make_checkpoint(args.shape, cache_folder(args)))
    serve = [sys.executable, "-m", "ostro", "serve", str(folder), "--port", "0", "--max-num-seqs", str(STREAMS)]
    costs: list[tuple[float, float, float]] = []

    def of_server() -> float:
        costs.append(cost(serve))
        return costs[-1][0]

    ours, floor = interleave(args.rounds, of_server, lambda: cost([sys.executable, "-c", FLOOR])[0])
    _, requests, chunks = (statistics.median(values) for values in zip(*costs, strict=True))
    report(
        args,
        "http_cost",
        "CPU us/token",
        ours,
        floor,
        lower=True,
        streams=STREAMS,
        chunks_per_token=round(chunks, 3),
        ms_per_request=round(requests, 2),
        peer_name="uvicorn and Starlette sending ready-made chunks",
    )


if __name__ == "__main__":
    main()
