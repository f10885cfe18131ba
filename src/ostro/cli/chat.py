"""`ostro chat`: a conversation in the terminal, with a model in this process or behind an endpoint."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer

from ostro.core.errors import OstroError

Message = dict[str, Any]
Answerer = Callable[[list[Message]], Iterator[str]]

_HELP = "Type a message. /reset forgets the conversation, /system TEXT sets the system prompt, /exit leaves."


def register(app: typer.Typer) -> None:
    """Add the command to the root."""
    app.command("chat", epilog="Example: ostro chat --endpoint http://127.0.0.1:8000")(chat)


def chat(
    model: str | None = typer.Argument(None, help="Folder or name; by default ostro-nano, or what the endpoint has."),
    endpoint: str | None = typer.Option(None, help="URL of a server; without it the model runs in this process."),
    api_key: str | None = typer.Option(None, envvar="OSTRO_API_KEY", show_envvar=True, help="The server's key."),
    system: str | None = typer.Option(None, help="System prompt."),
    max_tokens: int | None = typer.Option(None, min=1, help="Most tokens of an answer."),
    temperature: float = typer.Option(0.0, help="0 takes the likeliest token."),
    device: str = typer.Option("auto", help="auto, cpu or cuda."),
) -> None:
    """Talk with a model. /reset, /system TEXT and /exit; Ctrl-C stops an answer."""
    if endpoint is not None:
        answer = _remote(endpoint, api_key, model, max_tokens, temperature)
    else:
        answer = _local(model or "ostro-nano", device, max_tokens, temperature)
    converse(answer, system)


def converse(answer: Answerer, system: str | None) -> None:
    """Read, answer, repeat until the input ends. An error costs a turn, not the conversation."""
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401 - line editing and history in input()

        typer.echo(_HELP, err=True)
    conversation: list[Message] = _opening(system)
    while (line := _read(interactive)) is not None:
        text = line.strip()
        if text in ("/exit", "/quit"):
            return
        if text == "/reset":
            conversation = _opening(system)
        elif text == "/system" or text.startswith("/system "):
            system = text.removeprefix("/system").strip() or None
            conversation = _opening(system)
        elif text.startswith("/"):
            typer.echo(_HELP, err=True)
        elif text:
            _turn(answer, conversation, text)


def _opening(system: str | None) -> list[Message]:
    return [] if system is None else [{"role": "system", "content": system}]


def _read(interactive: bool) -> str | None:
    """The next line; None at the end. Ctrl-C at the prompt drops the line that was being typed."""
    while True:
        try:
            return input("> ") if interactive else _next_line()
        except EOFError:
            return None
        except KeyboardInterrupt:
            if not interactive:
                raise
            typer.echo("\n(Ctrl-D or /exit leaves)", err=True)


def _next_line() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def _turn(answer: Answerer, conversation: list[Message], text: str) -> None:
    conversation.append({"role": "user", "content": text})
    said = ""
    with _stoppable() as stopped:
        try:
            for piece in answer(conversation):
                typer.echo(piece, nl=False)
                said += piece
                if stopped():
                    typer.echo(" [stopped]", nl=False)
                    break
        except OstroError as error:
            typer.echo(f"error: {error.message}", err=True)
            conversation.pop()
            return
    typer.echo()
    conversation.append({"role": "assistant", "content": said})


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """While an answer runs, Ctrl-C is noted and not raised: the engine must not be torn out of a step. A second
    Ctrl-C is raised."""
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signal.signal calls it
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _local(model: str, device: str, max_tokens: int | None, temperature: float) -> Answerer:
    from ostro.core.sampling import SamplingParams
    from ostro.engine.llm import LLM

    params = SamplingParams(max_tokens=max_tokens, temperature=temperature)
    llm = LLM(model, device=device)  # type: ignore[arg-type]  # LLM checks the name
    return lambda conversation: llm.stream_chat(conversation, params)


def _remote(
    endpoint: str, api_key: str | None, model: str | None, max_tokens: int | None, temperature: float
) -> Answerer:
    from ostro.client import Client

    client = Client(api_key=api_key, endpoint=endpoint)
    options = {"model": model, "max_tokens": max_tokens, "temperature": temperature}

    def answer(conversation: list[Message]) -> Iterator[str]:
        with client.chat(conversation, stream=True, **options) as stream:
            for delta in stream:
                yield delta.text

    return answer
