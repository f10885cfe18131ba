"""`POST /v1/completions`: texts or token ids in, continuations out."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from ostro.core.constraints import ResponseFormat
from ostro.core.errors import InvalidRequestError
from ostro.core.ids import new_id
from ostro.core.media import Prompt as TokenPrompt
from ostro.core.sampling import SamplingParams
from ostro.server.answering import Job, answer, plain_reader, submit
from ostro.server.chatting import constrained
from ostro.server.completion_shape import CompletionShape
from ostro.server.context import ServerContext, context_of
from ostro.server.models import ServedModel
from ostro.server.patience import patient
from ostro.web.auth import owner_of
from ostro.web.body import read_json
from ostro.web.completions import Completion, CompletionRequest, Prompt
from ostro.web.openapi import gives, takes

router = APIRouter(tags=["completions"])


@router.post(
    "/v1/completions", openapi_extra=takes(CompletionRequest), responses=gives(Completion, streamed=Completion)
)
async def completions(request: Request, context: Annotated[ServerContext, Depends(context_of)]) -> Response:
    body = await read_json(request, CompletionRequest)
    body.refuse_unsupported()
    asked = body.params(), body.response(), body.prompts()  # what is wrong with them is told before a model is loaded
    work = _answer(request, context, body, *asked)
    return await patient(context, work, streamed=body.stream, headers=body.ignored_header())


async def _answer(
    request: Request,
    context: ServerContext,
    body: CompletionRequest,
    params: SamplingParams,
    response: ResponseFormat,
    prompts: list[Prompt],
) -> Response:
    model = await context.models.use(request, body.model)
    _refuse_without_tokenizer(model, body, response)
    params = await constrained(context, params, response, body.response_param)
    encoded = await _encode_all(model, body, prompts)
    job = Job(model, body, new_id("cmpl"), len(encoded) * (body.n or 1))
    generation = submit(
        context,
        model,
        [TokenPrompt(ids) for ids in encoded],
        params,
        plain_reader(model, params),
        request_id=job.id,
        owner=owner_of(request.scope),
        priority=body.priority or 0,
        timeout_s=body.timeout,
        format_param=body.response_param,
    )
    echoes = [_echo(model, prompt) for prompt in prompts] if body.echo else []  # they fit the context, it is known now
    shape = CompletionShape(job, body, encoded, echoes, of=params.n)
    return await answer(request, context, job, shape.shape(), generation)


def _refuse_without_tokenizer(model: ServedModel, body: CompletionRequest, response: ResponseFormat) -> None:
    if model.tokenizer is not None:
        return
    if body.stop:
        raise InvalidRequestError("Stop strings need a tokenizer; use stop_token_ids.", param="stop")
    if response.kind != "text":
        raise InvalidRequestError("A format of the text needs a model with a tokenizer.", param=body.response_param)


async def _encode_all(model: ServedModel, body: CompletionRequest, prompts: list[Prompt]) -> list[list[int]]:
    if body.suffix:
        if len(prompts) != 1 or not isinstance(prompts[0], str):
            raise InvalidRequestError("suffix goes with one prompt, given as text.", param="suffix")
        return [await model.encode_fim(prompts[0], body.suffix)]
    return list(await asyncio.gather(*(_encode(model, prompt) for prompt in prompts)))


async def _encode(model: ServedModel, prompt: Prompt) -> list[int]:
    return await model.encode(prompt) if isinstance(prompt, str) else prompt


def _echo(model: ServedModel, prompt: Prompt) -> str:
    """The prompt as text, to stand before its answers."""
    if isinstance(prompt, str):
        return prompt
    return "" if model.tokenizer is None else model.tokenizer.decode(prompt)
