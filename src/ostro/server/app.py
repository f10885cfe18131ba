"""Puts one node's HTTP application together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from ostro import __version__
from ostro.core.errors import OstroError
from ostro.observability.metrics import ServerMetrics
from ostro.server.batch import BatchRunner
from ostro.server.batch.runner import IN_FLIGHT
from ostro.server.context import ServerContext
from ostro.server.grammar_check import GrammarChecker
from ostro.server.media_reading import MediaReader
from ostro.server.models import Models, ServedModel
from ostro.server.pins import ReleasePins
from ostro.server.pool import PoolOptions
from ostro.server.readiness import Readiness
from ostro.server.routes import (
    audio,
    batch_jobs,
    batches,
    chat,
    completions,
    embeddings,
    files,
    fim,
    health,
    home,
    infer,
    messages,
    metrics,
    models,
    moderations,
    responses,
    tokens,
)
from ostro.storage import Database
from ostro.web.auth import ApiKeyGate
from ostro.web.body import BODY_S, MAX_BODY_BYTES, BodyLimit, handle_bad_parameter
from ostro.web.cors import add_cors
from ostro.web.errors import ErrorBoundary, handle_http_exception, handle_ostro_error
from ostro.web.fetching import MediaFetcher
from ostro.web.head import HeadAsGet
from ostro.web.hosts import LoopbackHosts
from ostro.web.images import MAX_IMAGE_BYTES
from ostro.web.message_errors import MessageErrors
from ostro.web.openapi import describe
from ostro.web.rate import RateHeaders
from ostro.web.request_id import RequestId
from ostro.web.sse import HEARTBEAT_S


def create_app(
    served: Mapping[str, ServedModel],
    *,
    pool: PoolOptions | None = None,
    api_keys: Collection[str] = (),
    gateway_keys: Collection[str] = (),
    loopback_only: bool = False,
    cors_origins: Collection[str] = (),
    max_body_bytes: int = MAX_BODY_BYTES,
    max_image_bytes: int = MAX_IMAGE_BYTES,
    body_s: float = BODY_S,
    heartbeat_s: float = HEARTBEAT_S,
    store: Path | str | None = None,
    max_upload_bytes: int = files.MAX_UPLOAD_BYTES,
    max_audio_bytes: int = audio.MAX_AUDIO_BYTES,
    media_from: Sequence[str] = (),
    batch_in_flight: int = IN_FLIGHT,
) -> FastAPI:
    """The ASGI application of a node. Its lifespan starts the engines and closes them.

    pool: how several models share the node, the first being the default; None loads all at the start and keeps them.
    api_keys: with any, everything but /health/live and the page wants one of them as a bearer token. gateway_keys: more
        of them, of gateways, which say whose the requests are that they send.
    loopback_only: refuse Host headers that are not a loopback name; for servers bound to one.
    cors_origins: pages of these origins may call; others' browsers refuse them.
    max_body_bytes: most bytes of a request. max_image_bytes: most bytes of one image in it, decoded.
    body_s: how long a request's body may take to come.
    heartbeat_s: how long a stream may be silent before a comment line is sent on it.
    store: the file or sqlite URL that keeps stored answers, files and jobs; None keeps them in memory. Raises
        ConfigError where it cannot be opened.
    max_upload_bytes: most bytes of an uploaded file. max_audio_bytes: most bytes of a form with a sound to transcribe,
        and of a sound that is fetched, or sent in another way, decoded. batch_in_flight: requests of batch jobs that
        run at a time.
    media_from: hosts that images and sounds may be fetched from, such as "example.org", "*.example.org" or "*"; none
        otherwise.
    """
    known = Models(served, pool)
    database = Database(store)
    grammars = GrammarChecker()
    limits = {"image": max_image_bytes, "audio": max_audio_bytes}
    media = MediaReader(MediaFetcher(media_from, max_bytes=max(limits.values())), limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        known.start()
        runner.start()
        try:
            yield
        finally:
            await runner.close()
            await grammars.close()
            await media.close()
            await known.close()
            database.close()

    app = FastAPI(
        title="Ostro",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load their scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    runner = BatchRunner(app, database, in_flight=batch_in_flight)
    app.state.context = ServerContext(
        models=known,
        metrics=ServerMetrics(known.stats, known.residency),
        readiness=Readiness(known),
        database=database,
        batches=runner,
        grammars=grammars,
        media=media,
        heartbeat_s=heartbeat_s,
    )
    answering = (chat, completions, fim, infer, responses, messages, audio, embeddings, moderations, tokens)
    for part in (home, health, metrics, models, *answering, files, batch_jobs, batches):
        app.include_router(part.router)
    describe(app)
    app.add_exception_handler(OstroError, handle_ostro_error)
    app.add_exception_handler(HTTPException, handle_http_exception)
    app.add_exception_handler(RequestValidationError, handle_bad_parameter)
    # The last added is the outermost: every answer has an id, even a refusal.
    app.add_middleware(ReleasePins)
    app.add_middleware(HeadAsGet)
    app.add_middleware(
        BodyLimit,
        limit=max_body_bytes,
        timeout_s=body_s,
        uploads={files.ROUTE: max_upload_bytes, audio.ROUTE: max_audio_bytes},
        image_limit=max_image_bytes,
    )
    app.add_middleware(RateHeaders, allowance_of=known.allowance)
    app.add_middleware(ApiKeyGate, keys=api_keys, gateway_keys=gateway_keys, open_paths=home.OPEN_PATHS)
    if loopback_only:
        app.add_middleware(LoopbackHosts)
    app.add_middleware(ErrorBoundary)
    app.add_middleware(MessageErrors)
    add_cors(app, cors_origins)  # outside of the keys: a browser asks without one first
    app.add_middleware(RequestId)
    return app
