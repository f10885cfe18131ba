"""`POST /v1/fim/completions`: what belongs between a prompt and a suffix, in the shape of a chat answer."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from ostro.core.constraints import ResponseFormat
from ostro.core.ids import new_id
from ostro.core.media import Prompt
from ostro.core.sampling import SamplingParams
from ostro.server.answering import Job, answer, plain_reader, submit
from ostro.server.chatting import constrained
from ostro.server.context import ServerContext, context_of
from ostro.server.mistral_shape import MistralChatShape
from ostro.server.patience import patient
from ostro.web.auth import owner_of
from ostro.web.body import read_json
from ostro.web.chat import ChatChunk, ChatCompletion
from ostro.web.completions import FimRequest
from ostro.web.openapi import gives, takes

router = APIRouter(tags=["completions"])


@router.post(
    "/v1/fim/completions", openapi_extra=takes(FimRequest), responses=gives(ChatCompletion, streamed=ChatChunk)
)
async def fim_completions(request: Request, context: Annotated[ServerContext, Depends(context_of)]) -> Response:
    body = await read_json(request, FimRequest)
    work = _answer(request, context, body, body.params(), body.response())
    return await patient(context, work, streamed=body.stream, headers=body.ignored_header())


async def _answer(
    request: Request, context: ServerContext, body: FimRequest, params: SamplingParams, response: ResponseFormat
) -> Response:
    model = await context.models.use(request, body.model)
    prompt = await model.encode_fim(body.prompt, body.suffix or "")
    params = await constrained(context, params, response, body.response_param)
    job = Job(model, body, new_id("fim"), params.n)
    generation = submit(
        context,
        model,
        [Prompt(prompt)],
        params,
        plain_reader(model, params),
        request_id=job.id,
        owner=owner_of(request.scope),
        priority=body.priority or 0,
        timeout_s=body.timeout,
        format_param=body.response_param,
    )
    shape = MistralChatShape(job, generation.usage)
    return await answer(request, context, job, shape.shape(), generation)
