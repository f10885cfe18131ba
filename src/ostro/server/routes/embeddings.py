"""`POST /v1/embeddings`: texts or token ids in, vectors out, from any decoder that is served."""

from __future__ import annotations

import asyncio
import base64
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
from ostro.web.body import read_json
from ostro.web.disconnect import while_connected
from ostro.web.embeddings import EmbeddingItem, EmbeddingList, EmbeddingRequest, Input
from ostro.web.openapi import gives, takes
from ostro.web.wire import UsageInfo

# What images and sounds of one request may take once they are read: a small file may hold a large image.
MAX_MEDIA_BYTES = 256 * 1024 * 1024

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
    """Raises InvalidRequestError naming an input."""
    prompts = []
    taken = 0
    for one in inputs:
        prompts.append(await _encode(context, model, *one))
        taken += sum(len(media.data) for media in prompts[-1].media)
        if taken > MAX_MEDIA_BYTES:
            raise InvalidRequestError(
                f"The images and sounds up to {one[0]} take more than {MAX_MEDIA_BYTES} bytes once they are read. "
                "Send them in several requests.",
                param=one[0],
                code="too_many_media",
            )
        await asyncio.sleep(0)  # thousands of short texts take long together
    return prompts


async def _encode(context: ServerContext, model: ServedModel, field: str, given: Input) -> Prompt:
    """One input as the engine takes it. Raises InvalidRequestError naming it where the model cannot take it."""
    if isinstance(given, dict):
        return await _sense(context, model, field, given)
    token_ids = await model.encode(given, param=field) if isinstance(given, str) else given
    if not 0 <= min(token_ids) <= max(token_ids) <= MAX_COUNT:
        raise InvalidRequestError(f"{field} holds a number that is no token id.", param=field)
    _check_length(model, field, token_ids)
    return Prompt(field, token_ids)


async def _sense(context: ServerContext, model: ServedModel, field: str, part: dict[str, Any]) -> Prompt:
    """An image or a sound by itself."""
    try:
        room = model.ready_card().context
        (message,) = await context.media.read([{"role": "user", "content": [part]}], model.senses, room)
        prompt = model.text_tokenizer(field).encode_media(message["content"][0]["media"])
    except InvalidRequestError as error:
        error.message = error.message.replace("messages[0].content[0]", field)
        error.args = (error.message,)
        # What is too long for the context is told of all messages, of which there is one.
        where, _, within = (error.param or "").partition("messages[0].content[0]")
        error.param = field if where else f"{field}{within}"
        raise
    _check_length(model, field, prompt.token_ids)
    return Prompt(field, prompt.token_ids, prompt.spans, prompt.media)


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
