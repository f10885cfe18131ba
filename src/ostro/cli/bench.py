"""`ostro bench`: how fast a model runs on this machine."""

from __future__ import annotations

import json
import statistics
import time
from typing import TYPE_CHECKING, Annotated

import typer

from ostro.cli.bench_kernels import bench_kernels
from ostro.core.options import MAX_THREADS

if TYPE_CHECKING:
    from ostro.engine.llm import LLM


def register(app: typer.Typer) -> None:
    """Add the command to the root."""
    app.command("bench", epilog="Example: ostro bench ostro-nano --batch 16 --json")(bench)


def bench(
    model: Annotated[
        str,
        typer.Argument(
            help="A checkpoint folder, a GGUF file, a name that `ostro models` lists, or `kernels`, which measures the "
            "native kernels beside what the machine can do at most."
        ),
    ] = "ostro-nano",
    prompt: Annotated[int, typer.Option(min=1, help="Prompt length in tokens.")] = 128,
    new: Annotated[int, typer.Option(min=2, help="Tokens to generate.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Requests in the batched run.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are printed.")] = 3,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    quantize: Annotated[str | None, typer.Option(help="Hold dense weights as integers: int4, int8, ...")] = None,
    kv_dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16 or int8.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, max=MAX_THREADS, help="CPU threads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure prefill, decoding alone and decoding in a batch, in tokens per second."""
    if model == "kernels":
        bench_kernels(rounds=rounds, as_json=as_json)
        return
    from ostro.engine.llm import LLM

    llm = LLM(
        model,
        device=device,  # type: ignore[arg-type]  # LLM checks the names
        dtype=dtype,  # type: ignore[arg-type]  # checked by EngineOptions
        quantize=quantize,
        kv_dtype=kv_dtype,
        threads=threads,
        prefix_caching=False,
    )
    _measure(llm, 1, prompt, 2)
    rows = [_round(llm, prompt, new, batch) for _ in range(rounds)]
    figures = {name: round(statistics.median(row[name] for row in rows), 2) for name in rows[0]}
    card = llm.engine.card
    if as_json:
        shape = {"prompt": prompt, "new": new, "batch": batch}
        typer.echo(json.dumps({"model": card.name, "dtype": card.dtype, "device": card.device, **shape, **figures}))
        return
    typer.echo(f"{card.name}: {card.parameters / 1e6:.1f}M parameters, {card.dtype} on {card.device}; {card.kernels}")
    typer.echo(f"prefill, {prompt} tokens      {figures['prefill_tokens_per_s']:10.1f} tokens/s")
    typer.echo(f"decode, one request        {figures['decode_tokens_per_s']:10.1f} tokens/s")
    typer.echo(f"decode, {batch} requests         {figures['batch_tokens_per_s']:10.1f} tokens/s in all")


def _round(llm: LLM, prompt: int, new: int, batch: int) -> dict[str, float]:
    first = _measure(llm, 1, prompt, 1)
    alone = _measure(llm, 1, prompt, new)
    together_first = _measure(llm, batch, prompt, 1)
    together = _measure(llm, batch, prompt, new)
    return {
        "prefill_tokens_per_s": prompt / first,
        "decode_tokens_per_s": (new - 1) / max(alone - first, 1e-9),
        "batch_tokens_per_s": batch * (new - 1) / max(together - together_first, 1e-9),
    }


def _measure(llm: LLM, requests: int, prompt: int, new: int) -> float:
    """Seconds that `requests` equal requests take. Token ids are arbitrary: speed does not depend on them."""
    from ostro.core.sampling import SamplingParams

    vocabulary = llm.engine.runner.model.config.vocab_size
    prompts = [[(7 * index + 13 * request) % vocabulary for index in range(prompt)] for request in range(requests)]
    started = time.perf_counter()
    llm.generate(prompts, SamplingParams(temperature=0, max_tokens=new, ignore_eos=True), progress=False)
    return time.perf_counter() - started
