"""`/v1/models`: what is served, what it can do, and whether it is in memory."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.convertors import Convertor, register_url_convertor

from ostro.server.context import ServerContext, context_of
from ostro.server.models import ServedModel
from ostro.web.hosts import refuse_other_sites
from ostro.web.model_info import ModelInfo, ModelList
from ostro.web.openapi import gives


class _ModelName(Convertor[str]):
    """Names may hold a slash (owner/name), but the last part is the model's own, not what is done with it."""

    regex = ".+(?<!/load)(?<!/unload)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("model", _ModelName())

router = APIRouter(prefix="/v1/models", tags=["models"])

Context = Annotated[ServerContext, Depends(context_of)]


@router.get("", responses=gives(ModelList))
async def list_models(context: Context) -> dict[str, Any]:
    return {"object": "list", "data": [_describe(context, model) for model in context.models.served.values()]}


@router.get("/{name:model}", responses=gives(ModelInfo))
async def one_model(name: str, context: Context) -> dict[str, Any]:
    return _describe(context, context.models.find(name))


@router.post("/{name:model}/load", responses=gives(ModelInfo), dependencies=[Depends(refuse_other_sites)])
async def load_model(request: Request, name: str, context: Context) -> dict[str, Any]:
    """Load a model before somebody needs it; answers when it is loaded."""
    return _describe(context, await context.models.use(request, name))


@router.post("/{name:model}/unload", responses=gives(ModelInfo), dependencies=[Depends(refuse_other_sites)])
async def unload_model(name: str, context: Context) -> dict[str, Any]:
    """Free a model's memory until it is asked for; 409 while it is in use."""
    await context.models.unload(name)
    return _describe(context, context.models.find(name))


def _describe(context: ServerContext, model: ServedModel) -> dict[str, Any]:
    """OpenAI's fields, Mistral's `max_context_length` and `capabilities`, and what the engine tells once it is
    loaded."""
    card = model.engine.card
    state, reason = context.models.state(model)
    described: dict[str, Any] = {
        "id": model.name,
        "object": "model",
        "type": "base",  # what Mistral's client tells kinds of models apart by
        "created": model.created,
        "owned_by": "ostro",
        "ready": state == "ready",
        "state": state,
        "reason": reason or None,
        "capabilities": {
            "completion_chat": model.tokenizer is not None and model.tokenizer.can_chat,
            "function_calling": model.tokenizer is not None and model.tokenizer.can_call_tools,
            "completion_fim": model.tokenizer is not None and model.tokenizer.can_fill_in_middle,
            "reasoning": model.tokenizer is not None and model.tokenizer.can_reason,
            "fine_tuning": False,
            "vision": model.senses.image is not None,
            "audio": model.senses.audio is not None,
            "series": model.senses.series is not None,
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
