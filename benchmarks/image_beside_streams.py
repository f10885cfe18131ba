"""Streams while somebody sends a large image: time between their tokens meanwhile, against without it.

An encoder as Pixtral's in front of the shape's decoder, random weights; an image of 1024 x 1024 pixels is 4,096 patches
and 1,024 tokens. The figure is the median gap between tokens of a running stream, in milliseconds.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time

import torch

from benchmarks.report import arguments, report, timed
from benchmarks.shapes import SHAPES
from ostro.core.media import MediaInput, Prompt
from ostro.core.options import EngineOptions
from ostro.core.request import EngineRequest
from ostro.core.sampling import SamplingParams
from ostro.engine.engine import Engine
from ostro.models.layers.decoder import Decoder
from ostro.models.layers.encoder import finished
from ostro.models.mistral.config import parse
from ostro.models.pixtral.config import PixtralConfig

STREAMS = 4
ALONE = 40  # steps of the streams by themselves, before and behind the image
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


def make_engine(shape: str) -> Engine:
    torch.manual_seed(0)
    config = dataclasses.replace(parse(SHAPES[shape]), encoders=(ENCODER,), tie_word_embeddings=True)
    model = Decoder(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0) if parameter.dim() == 1 else parameter.normal_(std=0.02)
    return Engine(model.eval(), EngineOptions(model=shape, prefix_caching=False, max_batch_tokens=1024))


def image(seed: int, side: int = SIDE) -> MediaInput:
    pixels = torch.randn(3, side, side, generator=torch.Generator().manual_seed(seed))
    count = side // (PATCH * MERGE)
    return MediaInput.of("image", pixels.numpy(), (count, count))


def request(name: str, prompt: Prompt, new: int) -> EngineRequest:
    params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
    return EngineRequest(
        request_id=name,
        prompt_token_ids=prompt.token_ids,
        spans=prompt.spans,
        media=prompt.media,
        params=params,
        seed=0,
    )


def seeing(name: str, seed: int) -> EngineRequest:
    one = image(seed)
    ids = [5] * 8 + [10] * one.tokens + [6] * 8
    return request(name, Prompt.placing(ids, [one], {"image": 10}), 1)


def first_token_alone(engine: Engine, seed: int) -> float:
    engine.add(seeing("alone", seed))
    return timed(lambda: list(itertools.takewhile(lambda _: engine.has_work, iter(engine.step, None))))


def round_of(engine: Engine, seed: int) -> tuple[list[float], list[float], float]:
    """Gaps of the streams without and with the image, and seconds to the image's first token."""
    for index in range(STREAMS):
        engine.add(request(f"stream {index}", Prompt([7 + index] * 32), 4000))
    plain: list[float] = []
    for _ in range(ALONE):
        plain.append(timed(engine.step))
    plain = plain[5:]
    engine.add(seeing("image", seed))
    started = last = time.perf_counter()
    beside: list[float] = []
    while True:
        events = engine.step()
        now = time.perf_counter()
        assert sum(event.request_id.startswith("stream") for event in events) == STREAMS, "no stream stands still"
        beside.append(now - last)
        last = now
        if any(event.request_id == "image" for event in events):
            break
    waited = last - started
    plain += [timed(engine.step) for _ in range(ALONE)]
    for index in range(STREAMS):
        engine.abort(f"stream {index}")
    return plain, beside, waited


def batching(engine: Engine) -> float:
    """How much faster 16 small images are encoded together than one by one."""
    encoder = engine.runner.model.encoder("image")
    assert encoder is not None
    small = [torch.tensor(image(index, 64).array()) for index in range(16)]
    with torch.inference_mode():
        together = lambda: finished(encoder.encode(small))  # noqa: E731
        apart = lambda: [finished(encoder.encode([one])) for one in small]  # noqa: E731
        figures = [(timed(apart), timed(together)) for _ in range(5)]
    return statistics.median(first / second for first, second in figures)


def main() -> None:
    args = arguments(__doc__)
    engine = make_engine(args.shape)
    first_token_alone(engine, 1000)
    plain: list[float] = []
    beside: list[float] = []
    waits: list[float] = []
    alone: list[float] = []
    for seed in range(args.rounds):
        alone.append(first_token_alone(engine, 2000 + seed))
        before, during, waited = round_of(engine, seed)
        plain += before
        beside += during
        waits.append(waited)
    report(
        args,
        "image_beside_streams",
        "ms",
        1000 * statistics.median(beside),
        1000 * statistics.median(plain),
        lower=True,
        worst_of_20=round(statistics.quantiles(beside, n=20)[-1] / statistics.median(plain), 2),
        longest=round(max(beside) / statistics.median(plain), 2),
        image_alone_s=round(statistics.median(alone), 2),
        image_beside_s=round(statistics.median(waits), 2),
        encoded_together=round(batching(engine), 2),
        peer_name="the same streams without the image",
    )


if __name__ == "__main__":
    main()
