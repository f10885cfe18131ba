"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from ostro.core.ids import new_id
from ostro.server.answering import Job, answer
from ostro.server.chat_shape import ChatShape
from ostro.server.chatting import ChatSpec, start_chat
from ostro.server.context import ServerContext, context_of
from ostro.server.mistral_shape import MistralChatShape, wants_mistral_stream
from ostro.server.patience import patient
from ostro.web.body import read_json
from ostro.web.chat import ChatChunk, ChatCompletion, ChatRequest
from ostro.web.openapi import gives, takes

router = APIRouter(tags=["chat"])


@router.post(
    "/v1/chat/completions", openapi_extra=takes(ChatRequest), responses=gives(ChatCompletion, streamed=ChatChunk)
)
async def chat_completions(request: Request, context: Annotated[ServerContext, Depends(context_of)]) -> Response:
    body = await read_json(request, ChatRequest)
    body.refuse_unsupported()
    spec = _spec(body)
    ignored = [*spec.ignored(context.models.find(body.model)), *body.ignored()]
    work = _answer(request, context, body, spec, ignored)
    return await patient(context, work, streamed=body.stream, headers=body.ignored_header(*ignored))


async def _answer(
    request: Request, context: ServerContext, body: ChatRequest, spec: ChatSpec, ignored: Sequence[str]
) -> Response:
    model = await context.models.use(request, body.model)
    job = Job(model, body, new_id("chatcmpl"), spec.params.n)
    generation = await start_chat(request, context, model, spec, job.id)
    options: dict[str, Any] = {"prefix": _prefix(spec.messages[-1]), "chunks": body.prompt_mode == "reasoning"}
    if wants_mistral_stream(request):
        shape: ChatShape = MistralChatShape(job, generation.usage, **options)
    else:
        shape = ChatShape(job, **options)
    return await answer(request, context, job, shape.shape(), generation, ignored)


def _spec(body: ChatRequest) -> ChatSpec:
    return ChatSpec(
        messages=body.plain_messages(),
        params=body.params(),
        tools=body.tools or (),
        policy=body.policy(),
        response=body.response(),
        reasoning_effort=body.effort(),
        safe_prompt=bool(body.safe_prompt),
        continue_final=bool(body.continue_final_message),
        priority=body.priority or 0,
        timeout=body.timeout,
        response_param=body.response_param,
    )


def _prefix(message: Any) -> str:
    """The text that Mistral's API repeats before the answer's own: what a `prefix` message began with."""
    if not message.get("prefix"):
        return ""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)
