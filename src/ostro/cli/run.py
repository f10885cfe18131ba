"""`ostro run`: one prompt, one answer, in this process."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ostro.core.sampling import SamplingParams
    from ostro.engine.llm import LLM


def register(app: typer.Typer) -> None:
    """Add the command to the root."""
    app.command("run", epilog="Example: ostro run ostro-nano 'Where is my card?' --max-tokens 16 --json")(run)


def run(
    model: str = typer.Argument(help="A checkpoint folder, or a name that `ostro models` lists."),
    prompt: str = typer.Argument(help="The prompt; '-' reads it from standard input."),
    max_tokens: int | None = typer.Option(256, min=1, help="Most tokens to generate."),
    temperature: float = typer.Option(0.0, help="0 takes the likeliest token."),
    top_p: float = typer.Option(1.0, help="Nucleus mass."),
    seed: int | None = typer.Option(None, help="Makes a sampled answer repeatable."),
    raw: bool = typer.Option(False, "--raw", help="Continue the prompt as plain text, not as a chat."),
    device: str = typer.Option("auto", help="auto, cpu or cuda."),
    dtype: str = typer.Option("auto", help="auto, float32, bfloat16 or float16."),
    quantize: str | None = typer.Option(
        None, help="Hold dense weights as integers (CPU): int4, int8, int4-g128, int4-g64-shifted, ..."
    ),
    kv_dtype: str = typer.Option("auto", help="What the KV cache holds: auto, float32, bfloat16, float16 or int8."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object instead of streaming the text."),
) -> None:
    """Answer one prompt, streamed to standard output."""
    from ostro.core.sampling import SamplingParams
    from ostro.engine.llm import LLM

    text = sys.stdin.read() if prompt == "-" else prompt
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed)
    llm = LLM(model, device=device, dtype=dtype, quantize=quantize, kv_dtype=kv_dtype)  # type: ignore[arg-type]  # LLM checks the names
    # A bare tokenizer.json does not say how its model was taught to chat.
    as_chat = not raw and llm.tokenizer is not None and llm.tokenizer.can_chat
    if as_json:
        typer.echo(json.dumps(_answer(llm, model, text, params, as_chat=as_chat), ensure_ascii=False))
        return
    messages = [{"role": "user", "content": text}]
    pieces = llm.stream_chat(messages, params) if as_chat else llm.stream(text, params)
    for piece in pieces:
        typer.echo(piece, nl=False)
    typer.echo()


def _answer(llm: LLM, model: str, text: str, params: SamplingParams, *, as_chat: bool) -> dict[str, object]:
    messages = [{"role": "user", "content": text}]
    output = (llm.chat(messages, params) if as_chat else llm.generate(text, params))[0]
    return {
        "model": model,
        "text": output.text,
        "token_ids": output.token_ids,
        "finish_reason": output.finish_reason,
        "usage": {
            "prompt_tokens": output.usage.prompt_tokens,
            "completion_tokens": output.usage.completion_tokens,
            "total_tokens": output.usage.total_tokens,
        },
    }
