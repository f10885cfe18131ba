"""`GET /v1/models`: what is served, and what it can do."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from ostro.server.context import ServerContext, context_of
from ostro.server.models import ServedModel

router = APIRouter(prefix="/v1/models", tags=["models"])

Context = Annotated[ServerContext, Depends(context_of)]


@router.get("")
async def list_models(context: Context) -> dict[str, Any]:
    return {"object": "list", "data": [_describe(model) for model in context.models.served.values()]}


# A path converter, because names may hold a slash (owner/name).
@router.get("/{name:path}")
async def one_model(name: str, context: Context) -> dict[str, Any]:
    return _describe(context.models.find(name))


def _describe(model: ServedModel) -> dict[str, Any]:
    """OpenAI's fields, Mistral's `max_context_length` and `capabilities`, and what the engine tells once it is
    loaded."""
    card = model.engine.card
    described: dict[str, Any] = {
        "id": model.name,
        "object": "model",
        "type": "base",  # what Mistral's client tells kinds of models apart by
        "created": model.created,
        "owned_by": "ostro",
        "ready": not model.engine.reason,
        "capabilities": {
            "completion_chat": model.tokenizer is not None and model.tokenizer.version != "hf",
            "function_calling": False,
            "completion_fim": False,
            "fine_tuning": False,
            "vision": False,
        },
    }
    if card is not None:
        described |= {
            "max_context_length": card.context,
            "max_model_len": card.context,
            "architecture": card.architecture,
            "parameters": card.parameters,
            "dtype": card.dtype,
            "device": card.device,
        }
    return described
