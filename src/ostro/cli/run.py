"""`ostro run`: one prompt, one answer, in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
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
    image: list[Path] | None = typer.Option(
        None, exists=True, dir_okay=False, readable=True, help="An image to look at; may be repeated."
    ),
    audio: list[Path] | None = typer.Option(
        None, exists=True, dir_okay=False, readable=True, help="A sound to listen to; may be repeated."
    ),
    series: list[Path] | None = typer.Option(
        None,
        exists=True,
        dir_okay=False,
        readable=True,
        help="A file of numbers, one a line or as JSON, to follow; may be repeated.",
    ),
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
    from ostro.core.errors import InvalidRequestError
    from ostro.core.sampling import SamplingParams
    from ostro.engine.llm import LLM

    text = sys.stdin.read() if prompt == "-" else prompt
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed)
    llm = LLM(model, device=device, dtype=dtype, quantize=quantize, kv_dtype=kv_dtype)  # type: ignore[arg-type]  # LLM checks the names
    # A bare tokenizer.json does not say how its model was taught to chat.
    as_chat = not raw and llm.tokenizer is not None and llm.tokenizer.can_chat
    content = _content(text, image or (), audio or (), series or ())
    if not as_chat and content is not text:
        raise InvalidRequestError(
            "--image, --audio and --series need a model that chats, and go without --raw.", param="image"
        )
    messages: list[dict[str, object]] = [{"role": "user", "content": content}]
    if as_json:
        typer.echo(json.dumps(_answer(llm, model, text, messages, params, as_chat=as_chat), ensure_ascii=False))
        return
    pieces = llm.stream_chat(messages, params) if as_chat else llm.stream(text, params)
    for piece in pieces:
        typer.echo(piece, nl=False)
    typer.echo()


def _content(
    text: str, images: Sequence[Path], sounds: Sequence[Path], series: Sequence[Path]
) -> str | list[dict[str, object]]:
    """What a user's message holds: media first, then what is asked about them."""
    if not images and not sounds and not series:
        return text
    parts: list[dict[str, object]] = [{"type": "image_url", "image_url": path.resolve().as_uri()} for path in images]
    parts += [{"type": "audio_url", "audio_url": path.resolve().as_uri()} for path in sounds]
    parts += [{"type": "input_series", "input_series": _numbers(path)} for path in series]
    return [*parts, {"type": "text", "text": text}] if text.strip() else parts


def _numbers(path: Path) -> list[float]:
    from ostro.core.errors import InvalidRequestError
    from ostro.media.series_text import parse_series

    try:
        return parse_series(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError:
        raise InvalidRequestError(
            f"{path} is no text in UTF-8; a series is a file of numbers.", param="series"
        ) from None


def _answer(
    llm: LLM, model: str, text: str, messages: list[dict[str, object]], params: SamplingParams, *, as_chat: bool
) -> dict[str, object]:
    output = (llm.chat(messages, params) if as_chat else llm.generate(text, params))[0]
    return {
        "model": model,
        "text": output.text,
        "token_ids": output.token_ids,
        "labels": [{"label": one.label, "score": one.score, "group": one.group} for one in output.labels],
        "finish_reason": output.finish_reason,
        "usage": {
            "prompt_tokens": output.usage.prompt_tokens,
            "completion_tokens": output.usage.completion_tokens,
            "total_tokens": output.usage.total_tokens,
        },
    }
