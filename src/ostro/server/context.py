"""What the routes of one application share."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from ostro.observability.metrics import ServerMetrics
from ostro.server.batch import BatchRunner
from ostro.server.grammar_check import GrammarChecker
from ostro.server.media_reading import MediaReader
from ostro.server.models import Models
from ostro.server.readiness import Readiness
from ostro.storage import Database


@dataclass(frozen=True)
class ServerContext:
    models: Models
    metrics: ServerMetrics
    readiness: Readiness
    database: Database
    batches: BatchRunner
    grammars: GrammarChecker
    media: MediaReader
    heartbeat_s: float


def context_of(request: Request) -> ServerContext:
    context = request.app.state.context
    assert isinstance(context, ServerContext)
    return context
