"""`ostro serve`: models behind an HTTP endpoint. Engine processes, tokenizers and the server meet here."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import typer

from ostro.cli.sharing import own_name, parse_models, survey
from ostro.cli.sizes import parse_size
from ostro.core.cpus import confine_to_others
from ostro.core.options import MAX_THREADS

if TYPE_CHECKING:
    from ostro.core.options import EngineOptions
    from ostro.core.request import ModelCard
    from ostro.link.messages import Loading
    from ostro.server.pool import PoolOptions

ENGINE_MODULE = "ostro.engine.process"

_SIZE_HELP = "such as 2GiB"


def register(app: typer.Typer) -> None:
    """Add the command to the root."""
    app.command("serve", epilog="Example: ostro serve ostro-nano --port 8000")(serve)


def serve(
    model: str | None = typer.Argument(
        None, help="A checkpoint folder, or a name that `ostro models` lists; ostro-nano by default."
    ),
    more: list[str] | None = typer.Option(
        None,
        "--model",
        metavar="[NAME=]MODEL",
        help="A model and what it is called; may be repeated. The first is the default and is loaded at the start, the "
        "others when they are asked for.",
    ),
    memory_budget: str | None = typer.Option(
        None,
        help=f"Memory that loaded models may take together, {_SIZE_HELP}; the longest unused make room. With several "
        "models the default is a share of what is free.",
    ),
    idle_unload: float = typer.Option(0.0, min=0.0, help="Unload models that are unused for so many seconds; 0 never."),
    load_timeout: float = typer.Option(300.0, min=1.0, help="Seconds that a request waits for its model to be loaded."),
    host: str = typer.Option("127.0.0.1", help="Address to listen on; other machines reach 0.0.0.0."),
    port: int = typer.Option(8000, min=0, max=65535, help="Port to listen on; 0 takes a free one."),
    device: str = typer.Option("auto", help="auto, cpu or cuda."),
    dtype: str = typer.Option("auto", help="auto, float32, bfloat16 or float16."),
    quantize: str | None = typer.Option(
        None, help="Hold dense weights as integers (CPU): int4, int8, int4-g128, int4-g64-shifted, ..."
    ),
    kv_dtype: str = typer.Option("auto", help="What the KV cache holds: auto, float32, bfloat16, float16 or int8."),
    api_key: list[str] | None = typer.Option(
        None, envvar="OSTRO_API_KEY", show_envvar=True, help="Key that every request must bring; may be repeated."
    ),
    gateway_key: list[str] | None = typer.Option(
        None,
        envvar="OSTRO_GATEWAY_KEY",
        show_envvar=True,
        help="Key of a gateway, which says whose the requests are that it sends; may be repeated.",
    ),
    cors_origin: list[str] | None = typer.Option(
        None, help="Origin whose pages may call, such as https://app.example; may be repeated. None may otherwise."
    ),
    max_body: str | None = typer.Option(None, help="Most bytes of a request, such as 16MiB, which is the default."),
    max_image: str | None = typer.Option(None, help="Most bytes of an image, such as 10MiB, which is the default."),
    max_upload: str | None = typer.Option(
        None, help="Most bytes of an uploaded file, such as 512MiB, which is the default."
    ),
    max_audio: str | None = typer.Option(None, help="Most bytes of a sound, such as 25MiB, which is the default."),
    allow_media_from: list[str] | None = typer.Option(
        None,
        metavar="HOST",
        help="Host that images and sounds may be fetched from, such as example.org, *.example.org or *; may be "
        "repeated. From others they come as data only.",
    ),
    encoder_cache: str | None = typer.Option(
        None, help="Memory for encoded images and sounds, such as 256MiB, which is the default."
    ),
    media_memory: str | None = typer.Option(
        None, help="Memory for images and sounds that are not encoded yet, such as 2GiB, which is the default."
    ),
    served_name: str | None = typer.Option(None, help="What the model is called on the wire."),
    max_model_len: int | None = typer.Option(None, help="Most tokens of prompt and answer together."),
    kv_memory: str | None = typer.Option(None, help=f"Memory for the KV cache, {_SIZE_HELP}."),
    max_num_seqs: int | None = typer.Option(None, help="Most requests in a batch."),
    max_batch_tokens: int | None = typer.Option(None, help="Most tokens in a step; prompts are cut to fit."),
    max_waiting: int | None = typer.Option(None, help="Most waiting requests; one more is answered 429."),
    speculate: int | None = typer.Option(None, help="Tokens to draft per step by prompt lookup; 0 is off."),
    threads: int | None = typer.Option(
        None, min=1, max=MAX_THREADS, help="CPU threads of an engine; one a core if not given."
    ),
    pin: bool = typer.Option(
        True,
        "--pin/--no-pin",
        help="Keep engines to the cores that they compute on, and HTTP to other hardware threads. Not with --threads.",
    ),
    memory_limit: str | None = typer.Option(
        None, help=f"Resident memory at which the engine process is restarted, {_SIZE_HELP}."
    ),
    store: str | None = typer.Option(
        None,
        envvar="OSTRO_STORE",
        show_envvar=True,
        help="File that keeps stored answers, files and batch jobs; store.db in OSTRO_HOME by default.",
    ),
    until_stdin_closes: bool = typer.Option(
        False, help="End as on SIGTERM when the standard input closes: with whoever started it.", hidden=True
    ),
    grace: float = typer.Option(30.0, min=0.0, help="Seconds that running requests get on SIGTERM or Ctrl-C."),
) -> None:
    """Serve one model, or several, over HTTP, with OpenAI's and Mistral's API under /v1."""
    given = {
        "device": device,
        "dtype": dtype,
        "quantize": quantize,
        "kv_dtype": kv_dtype,
        "max_model_len": max_model_len,
        "kv_memory": parse_size(kv_memory),
        "max_num_seqs": max_num_seqs,
        "max_batch_tokens": max_batch_tokens,
        "max_waiting": max_waiting,
        "encoder_cache": parse_size(encoder_cache),
        "media_memory": parse_size(media_memory),
        "speculate": speculate,
        "threads": threads,
        "pin": pin,
    }
    named = parse_models(model, more or (), served_name)
    chosen: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    models = [_options(what, name, chosen) for name, what in named.items()]
    if until_stdin_closes:
        _end_with_stdin()
    if pin and threads is None:
        confine_to_others()
    pool = None
    if len(models) > 1 or memory_budget or idle_unload:
        models, pool = _share(models, parse_size(memory_budget), idle_unload, load_timeout)
    run_server(
        models,
        host,
        port,
        api_keys=[key for key in api_key or () if key],
        gateway_keys=[key for key in gateway_key or () if key],
        cors_origins=cors_origin or (),
        max_body=parse_size(max_body),
        max_image=parse_size(max_image),
        max_upload=parse_size(max_upload),
        max_audio=parse_size(max_audio),
        media_from=allow_media_from or (),
        memory_limit=parse_size(memory_limit),
        grace_s=grace,
        store=store,
        pool=pool,
    )


def _end_with_stdin() -> None:
    """Whoever started this process holds the other end, and its end closes that however it comes."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="stdin", daemon=True).start()


def _share(
    models: list[EngineOptions], budget: int | None, idle_unload_s: float, load_timeout_s: float
) -> tuple[list[EngineOptions], PoolOptions]:
    """How the models share the memory; their caches are given what was counted. Raises ConfigError."""
    import msgspec

    from ostro.server.pool import PoolOptions

    found = survey(models, budget)
    sized = [
        msgspec.structs.replace(options, kv_memory=footprint.kv)
        for options, footprint in zip(models, found.footprints, strict=True)
    ]
    for options, footprint in zip(models, found.footprints, strict=True):
        typer.echo(f"'{options.name}' takes about {_gib(footprint.total)} (cache {_gib(footprint.kv)}).", err=True)
    typer.echo(
        f"Models may take {_gib(found.budget)} together; {_gib(found.available)} of the {found.device}'s memory are "
        "free. --memory-budget changes it.",
        err=True,
    )
    footprints = {options.name: footprint for options, footprint in zip(models, found.footprints, strict=True)}
    return sized, PoolOptions(
        budget=found.budget, footprints=footprints, idle_unload_s=idle_unload_s, load_timeout_s=load_timeout_s
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def _options(model: str, served_name: str | None, given: dict[str, object]) -> EngineOptions:
    """Raises ConfigError and ModelNotFoundError before anything is started."""
    from ostro.core.options import EngineOptions
    from ostro.weights.resolve import resolve_model

    folder = resolve_model(model)
    return EngineOptions(model=str(folder), name=served_name or own_name(model), **given)  # type: ignore[arg-type]  # the command line checks types, EngineOptions values


def run_server(
    models: Sequence[EngineOptions],
    host: str,
    port: int,
    *,
    api_keys: Collection[str] = (),
    gateway_keys: Collection[str] = (),
    cors_origins: Collection[str] = (),
    max_body: int | None = None,
    max_image: int | None = None,
    max_upload: int | None = None,
    max_audio: int | None = None,
    media_from: Sequence[str] = (),
    memory_limit: int | None,
    grace_s: float,
    store: str | None = None,
    pool: PoolOptions | None = None,
    engine_module: str = ENGINE_MODULE,
) -> None:
    """Wire models and serve them until a signal. The first is the default; pool: how several share the memory."""
    from pathlib import Path

    from ostro.core.paths import store_file
    from ostro.link import EngineProcess
    from ostro.media.senses import read_senses
    from ostro.server import ServedModel, create_app, serve
    from ostro.server.routes.audio import MAX_AUDIO_BYTES
    from ostro.server.routes.files import MAX_UPLOAD_BYTES
    from ostro.tokenizer import load_tokenizer
    from ostro.web.body import MAX_BODY_BYTES
    from ostro.web.cors import check_origins
    from ostro.web.hosts import is_loopback
    from ostro.web.images import MAX_IMAGE_BYTES
    from ostro.web.listening import bind, url_of

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("ostro").setLevel(logging.INFO)
    check_origins(cors_origins)
    listener = bind(host, port)
    bar = _LoadingBar()
    served = {
        options.name: ServedModel(
            options.name,
            EngineProcess(engine_module, options, memory_limit=memory_limit, on_loading=bar.show),
            load_tokenizer(Path(options.model)),
            read_senses(Path(options.model)),
        )
        for options in models
    }
    if not (api_keys or gateway_keys) and not is_loopback(host):
        typer.echo(f"warning: anyone who reaches {host} may use this server; set --api-key.", err=True)
    url = url_of(host, listener.getsockname()[1])
    first = models[0].name
    typer.echo(f"Loading '{first}'; {url} answers already, and is ready when the model is.", err=True)
    app = create_app(
        served,
        pool=pool,
        api_keys=api_keys,
        gateway_keys=gateway_keys,
        loopback_only=is_loopback(host),
        cors_origins=cors_origins,
        max_body_bytes=max_body or MAX_BODY_BYTES,
        max_image_bytes=max_image or MAX_IMAGE_BYTES,
        max_upload_bytes=max_upload or MAX_UPLOAD_BYTES,
        max_audio_bytes=max_audio or MAX_AUDIO_BYTES,
        media_from=media_from,
        store=store or store_file(),
    )
    try:
        serve(app, listener, grace_s=grace_s, on_ready=_announce(url, bar, lambda: served[first].engine.card))
    finally:
        bar.close()
        listener.close()


def _announce(url: str, bar: _LoadingBar, card_of: Callable[[], ModelCard | None]) -> Callable[[], None]:
    def announce() -> None:
        bar.close()
        card = card_of()
        if card is None:
            return  # It died again in this very moment; the log says so.
        typer.echo(f"Ostro is ready: {url}")
        typer.echo(f"  model    {card.name} ({card.architecture}, {card.parameters:,} parameters, {card.dtype})")
        typer.echo(f"  device   {card.device}   kernels {card.kernels or 'PyTorch'}")
        typer.echo(f"  context  {card.context} tokens   KV cache {card.kv_tokens} tokens")
        typer.echo(f"  loaded   in {card.load_seconds:.1f} s   API under {url}/v1   Ctrl-C stops")

    return announce


class _LoadingBar:
    """A progress bar on a terminal; silent elsewhere."""

    def __init__(self) -> None:
        self._bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("loading", total=None)
            self._bar.start()

    def show(self, loading: Loading) -> None:
        if self._bar is not None:
            total = loading.total or None
            self._bar.update(self._task, description=loading.what, completed=loading.done, total=total)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
