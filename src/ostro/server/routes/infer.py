"""`POST /v1/infer`: one input, one answer."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from msgspec import UNSET

from ostro.core.ids import new_id
from ostro.server.answering import gather, json_response
from ostro.server.chatting import ChatSpec, start_chat
from ostro.server.context import ServerContext, context_of
from ostro.web.body import read_json
from ostro.web.disconnect import while_connected
from ostro.web.infer import Inference, InferRequest
from ostro.web.openapi import gives, takes
from ostro.web.wire import UsageInfo

router = APIRouter(tags=["infer"])


@router.post("/v1/infer", openapi_extra=takes(InferRequest), responses=gives(Inference))
async def infer(request: Request, context: Annotated[ServerContext, Depends(context_of)]) -> Response:
    body = await read_json(request, InferRequest)
    spec = ChatSpec(
        messages=[{"role": "user", "content": body.content()}],
        params=body.params(),
        response=body.response(),
        priority=body.priority or 0,
        timeout=body.timeout,
        messages_param=body.field("text"),
        response_param=body.response_param,
        inspect=bool(body.return_routing),
    )
    model = await context.models.use(request, body.model)
    answer_id = new_id("infer")
    with body.own_words():
        generation = await start_chat(request, context, model, spec, answer_id)
    try:
        (choice,) = await while_connected(request, gather(generation))
    finally:
        generation.close()
    answer = Inference(
        id=answer_id,
        model=model.name,
        text=choice.text,
        labels=generation.labels,
        routing=generation.routing if body.return_routing else UNSET,
        finish_reason=choice.finish_reason,
        usage=UsageInfo.of(generation.usage()),
        cost=None,
    )
    return json_response(answer, body.ignored_header(*body.ignored()))
