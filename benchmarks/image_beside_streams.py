"""Streams over HTTP while somebody sends a large image: time between their chunks meanwhile, against without it.

A server process with an encoder as Pixtral's in front of the shape's decoder, random weights; an image of 1024 x 1024
pixels is 4,096 patches and 1,024 tokens. The figure is the median gap between chunks of a running stream, in
milliseconds, as a client sees it that shares the machine; an image's own time is from sending it to its first token.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import io
import itertools
import json
import shutil
import signal
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.http_streams import serve
from benchmarks.report import arguments, cache_folder, report, timed
from benchmarks.shapes import SHAPES, randomised
from ostro.core.paths import embedded_models
from ostro.models.layers.decoder import Decoder
from ostro.models.layers.encoder import finished
from ostro.models.mistral.config import parse
from ostro.models.pixtral.config import PixtralConfig
from ostro.weights.loader import load_model
from ostro.weights.writer import save_checkpoint

STREAMS = 4
ALONE_S = 3.0  # of the streams by themselves, before and behind the image
PATCH, MERGE, SIDE = 16, 2, 1024
ENCODER = PixtralConfig(
    hidden_size=512,
    intermediate_size=2048,
    num_layers=12,
    num_heads=8,
    patch_size=PATCH,
    image_size=SIDE,
    merge=MERGE,
    projector_norm=True,
)


def make_folder(shape: str, folder: Path) -> Path:
    """A checkpoint that sees, with a tokenizer that has the images' tokens."""
    if (folder / "tekken.json").is_file():
        return folder
    model = randomised(Decoder(dataclasses.replace(parse(SHAPES[shape]), encoders=(ENCODER,))))
    save_checkpoint(model, folder, dtype=torch.float32)
    tekken = json.loads((embedded_models()["ostro-nano"] / "tekken.json").read_text(encoding="utf-8"))
    tekken["image"] = {"image_patch_size": PATCH, "max_image_size": SIDE, "spatial_merge_size": MERGE}
    (folder / "tekken.json").write_text(json.dumps(tekken), encoding="utf-8")
    return folder


def picture(seed: int, side: int = SIDE) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


async def post(port: int, path: str, body: dict[str, object]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps({"temperature": 0, "ignore_eos": True, "stream": True, **body}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    await writer.drain()
    return reader, writer


async def watch(port: int, index: int, chunks: list[float]) -> None:
    """Times of a stream's chunks, until it is cancelled."""
    # Token ids make a chunk of every token, also of such as have no text.
    body: dict[str, object] = {"prompt": [70 + index] * 32, "max_tokens": 6000, "return_token_ids": True}
    reader, writer = await post(port, "/v1/completions", body)
    try:
        while piece := await reader.read(65_536):
            if b"data: {" in piece:
                chunks.append(time.perf_counter())
        raise RuntimeError("a stream ended before it was to")
    finally:
        writer.close()


async def see(port: int, seed: int) -> tuple[float, float]:
    """When an image was sent, and when its answer began."""
    url = f"data:image/png;base64,{base64.b64encode(picture(seed)).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what is it"}]
    sent = time.perf_counter()
    body: dict[str, object] = {"messages": [{"role": "user", "content": content}], "max_tokens": 1}
    reader, writer = await post(port, "/v1/chat/completions", body)
    received = b""
    while b'"finish_reason":"length"' not in received:
        piece = await reader.read(65_536)
        assert piece, received
        received += piece
    writer.close()
    return sent, time.perf_counter()


async def round_of(port: int, seed: int) -> tuple[list[float], list[float], float]:
    """Gaps of the streams without and with the image, and seconds to the image's first token."""
    chunks: list[list[float]] = [[] for _ in range(STREAMS)]
    streams = [asyncio.create_task(watch(port, index, times)) for index, times in enumerate(chunks)]
    while not all(len(times) > 5 for times in chunks):
        for task in streams:
            if task.done():
                await task  # which raises what ended it
        await asyncio.sleep(0.01)
    begun = time.perf_counter()
    await asyncio.sleep(ALONE_S)
    sent, answered = await see(port, seed)
    await asyncio.sleep(ALONE_S)
    for task in streams:
        task.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    plain: list[float] = []
    beside: list[float] = []
    for times in chunks:
        assert times[-1] > answered, "no stream ends meanwhile"
        for first, second in itertools.pairwise(times):
            if first >= begun:
                (beside if first < answered and second > sent else plain).append(second - first)
    return plain, beside, answered - sent


def batching(folder: Path) -> float:
    """How much faster 16 small images are encoded together than one by one."""
    encoder = load_model(folder).encoder("image")
    assert encoder is not None
    small = [torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(index)) for index in range(16)]
    with torch.inference_mode():
        together = lambda: finished(encoder.encode(small))  # noqa: E731 - shorter than two functions
        apart = lambda: [finished(encoder.encode([one])) for one in small]  # noqa: E731 - shorter than two functions
        figures = [(timed(apart), timed(together)) for _ in range(5)]
    return statistics.median(first / second for first, second in figures)


def main() -> None:
    args = arguments(__doc__)
    folder = cache_folder(args).with_name(f"{args.shape}-seeing")
    make_folder(args.shape, folder)
    plain: list[float] = []
    beside: list[float] = []
    waits: list[float] = []
    alone: list[float] = []
    server, port = serve(str(folder), STREAMS + 1)
    try:
        asyncio.run(see(port, 1000))
        for seed in range(args.rounds):
            sent, answered = asyncio.run(see(port, 2000 + seed))
            alone.append(answered - sent)
            before, during, waited = asyncio.run(round_of(port, seed))
            plain += before
            beside += during
            waits.append(waited)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    together = batching(folder)
    if args.cache is None:
        shutil.rmtree(folder)
    report(
        args,
        "image_beside_streams",
        "ms",
        1000 * statistics.median(beside),
        1000 * statistics.median(plain),
        lower=True,
        p95=round(statistics.quantiles(beside, n=20)[-1] / statistics.median(plain), 2),
        longest=round(max(beside) / statistics.median(plain), 2),
        image_alone_s=round(statistics.median(alone), 2),
        image_beside_s=round(statistics.median(waits), 2),
        encoded_together=round(together, 2),
        peer_name="the same streams without the image",
    )


if __name__ == "__main__":
    main()
