"""`POST /v1/embeddings`: texts or token ids in, vectors out, from any decoder that is served."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from fastapi import APIRouter, Depends, Request, Response

from ostro.core.errors import InvalidRequestError, PromptTooLongError
from ostro.core.ids import new_id
from ostro.core.request import Usage
from ostro.core.sampling import MAX_COUNT
from ostro.server.context import ServerContext, context_of
from ostro.server.embedding import Embedder, Pooled, Prompt, shortened
from ostro.server.models import ServedModel
from ostro.web.auth import owner_of
from ostro.web.body import read_json
from ostro.web.disconnect import while_connected
from ostro.web.embeddings import EmbeddingItem, EmbeddingList, EmbeddingRequest, Input
from ostro.web.openapi import gives, takes
from ostro.web.wire import UsageInfo

# How readers of conversations name where an input is.
_PLACE = re.compile(r"messages\[(\d+)\](?:\.content\[0\])?")

router = APIRouter(tags=["embeddings"])


@router.post("/v1/embeddings", openapi_extra=takes(EmbeddingRequest), responses=gives(EmbeddingList))
async def embeddings(request: Request, context: Annotated[ServerContext, Depends(context_of)]) -> Response:
    body = await read_json(request, EmbeddingRequest)
    inputs = body.inputs()
    field, width = body.width()
    model = await context.models.use(request, body.model)
    prompts = await while_connected(request, _encode_all(context, model, inputs))
    embedder = Embedder(
        model=model,
        metrics=context.metrics,
        request_id=new_id("embd"),
        owner=owner_of(request.scope),
        pooling=body.pooling or "last",
        priority=body.priority or 0,
        timeout_s=body.timeout,
    )
    # Each item is written when it is there: thousands of vectors at the end would keep everybody else waiting.
    items = [b""] * len(prompts)
    cached = 0

    def write(index: int, pooled: Pooled) -> None:
        nonlocal cached
        cached += pooled.cached_tokens
        items[index] = _item(index, shortened(pooled.vector_D, width, field), body.encoding_format)

    await while_connected(request, embedder.run(prompts, write))
    usage = Usage(prompt_tokens=_count(prompts), completion_tokens=0, cached_tokens=cached)
    answer = {
        "id": embedder.request_id,
        "object": "list",
        "data": [msgspec.Raw(item) for item in items],
        "model": model.name,
        "usage": UsageInfo.of(usage),
    }
    return Response(msgspec.json.encode(answer), headers=body.ignored_header(), media_type="application/json")


async def _encode_all(context: ServerContext, model: ServedModel, inputs: Sequence[tuple[str, Input]]) -> list[Prompt]:
    """Each input as the engine takes it. Raises InvalidRequestError naming an input that the model cannot take."""
    sensed = await _sense(context, model, {field: given for field, given in inputs if isinstance(given, dict)})
    prompts = []
    for field, given in inputs:
        if isinstance(given, dict):
            prompts.append(sensed[field])
        else:
            token_ids = await model.encode(given, param=field) if isinstance(given, str) else given
            if not 0 <= min(token_ids) <= max(token_ids) <= MAX_COUNT:
                raise InvalidRequestError(f"{field} holds a number that is no token id.", param=field)
            prompts.append(Prompt(field, token_ids))
        _check_length(model, field, prompts[-1].token_ids)
        await asyncio.sleep(0)  # thousands of short texts take long together
    return prompts


async def _sense(context: ServerContext, model: ServedModel, parts: dict[str, dict[str, Any]]) -> dict[str, Prompt]:
    """By field, images and sounds, each a prompt by itself. They are read as those of one conversation are, so that the
    limits of a request are those of all its inputs together."""
    if not parts:
        return {}
    fields = list(parts)
    messages = [{"role": "user", "content": [part]} for part in parts.values()]
    try:
        read = await context.media.read(messages, model.senses, model.ready_card().context, apart=True)
    except InvalidRequestError as error:
        error.message = _PLACE.sub(lambda found: fields[int(found[1])], error.message)
        error.args = (error.message,)
        error.param = _PLACE.sub(lambda found: fields[int(found[1])], error.param or "input")
        raise
    tokenizer = model.text_tokenizer(fields[0])
    prompts = {}
    for field, message in zip(fields, read, strict=True):
        prompt = tokenizer.encode_media(message["content"][0]["media"])
        prompts[field] = Prompt(field, prompt.token_ids, prompt.spans, prompt.media)
    return prompts


def _check_length(model: ServedModel, field: str, token_ids: Sequence[int]) -> None:
    context = model.ready_card().context
    if len(token_ids) >= context:
        error = PromptTooLongError(len(token_ids), None, context)
        error.param = field
        raise error


def _item(index: int, vector_D: np.ndarray, encoding: str | None) -> bytes:
    written = base64.b64encode(vector_D.tobytes()).decode() if encoding == "base64" else vector_D.tolist()
    return msgspec.json.encode(EmbeddingItem(index=index, embedding=written))


def _count(prompts: Sequence[Prompt]) -> int:
    return sum(len(prompt.token_ids) for prompt in prompts)
