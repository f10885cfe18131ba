"""`POST /v1/messages` and `/v1/messages/count_tokens`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from ostro.core.errors import InvalidRequestError, PromptTooLongError
from ostro.core.sampling import SamplingParams
from ostro.server.answering import json_response, stream, stream_failure, whole
from ostro.server.chatting import ChatSpec, render, start_chat
from ostro.server.context import ServerContext, context_of
from ostro.server.messages_shape import PING, MessageShape
from ostro.server.patience import patient
from ostro.web.body import read_json
from ostro.web.message_answer import AnyMessageEvent, Message, TokenCount
from ostro.web.message_errors import MessageError, message_error
from ostro.web.messages import CountTokensRequest, MessagesRequest
from ostro.web.openapi import fails, gives, takes
from ostro.web.sse import sse_event

router = APIRouter(tags=["messages"])


@router.post(
    "/v1/messages",
    openapi_extra=takes(MessagesRequest),
    responses=gives(Message, streamed=AnyMessageEvent) | fails(MessageError),
)
async def create_message(request: Request, context: Annotated[ServerContext, Depends(context_of)]) -> Response:
    body = await read_json(request, MessagesRequest)
    body.refuse_unsupported()
    spec = _spec(body, body.params(), priority=body.priority or 0, timeout=body.timeout)

    def failed(error: Exception) -> bytes:
        told = stream_failure(error, "a message that waited")
        return sse_event("error", message_error(told, request.state.request_id))

    effort = [body.effort_param] if spec.ignored(context.models.find(body.model)) else []
    headers = body.ignored_header(*body.ignored(), *effort)
    work = _answer(request, context, body, spec, headers)
    return await patient(context, work, streamed=body.stream, headers=headers, heartbeat=PING, failed=failed)


async def _answer(
    request: Request, context: ServerContext, body: MessagesRequest, spec: ChatSpec, headers: Mapping[str, str]
) -> Response:
    model = await context.models.use(request, body.model)
    shape = MessageShape(model.name, shows_thoughts=body.shows_thoughts)
    with _in_their_words(body):
        generation = await start_chat(request, context, model, spec, shape.id)
    if body.stream:
        frames = shape.frames(generation, request.state.request_id)
        return await stream(request, context, generation, frames, headers, heartbeat=PING)
    return json_response(await whole(request, generation, shape.whole(generation)), headers)


@router.post(
    "/v1/messages/count_tokens",
    openapi_extra=takes(CountTokensRequest),
    responses=gives(TokenCount) | fails(MessageError),
)
async def count_tokens(request: Request, context: Annotated[ServerContext, Depends(context_of)]) -> Response:
    """What `create_message` would put into the model. Loads none: a tokenizer is there without it."""
    body = await read_json(request, CountTokensRequest)
    body.refuse_unsupported()
    model = context.models.find(body.model)
    spec = _spec(body, SamplingParams())
    with _in_their_words(body):
        prompt = await render(request, context, model, spec)
    return json_response(TokenCount(len(prompt.token_ids)), body.ignored_header())


def _spec(
    body: CountTokensRequest, params: SamplingParams, *, priority: int = 0, timeout: float | None = None
) -> ChatSpec:
    return ChatSpec(
        messages=body.chat_messages(),
        params=params,
        tools=body.chat_tools(),
        policy=body.policy(),
        response=body.response(),
        reasoning_effort=body.effort,
        continue_final=body.continues,
        priority=priority,
        timeout=timeout,
        response_param="output_config.format",
    )


@contextmanager
def _in_their_words(body: CountTokensRequest) -> Iterator[None]:
    """What is wrong with a conversation, told by the names that its fields have here."""
    try:
        yield
    except PromptTooLongError as error:
        error.message, error.param = _too_long(error, body), None
        raise
    except InvalidRequestError as error:
        if error.param is not None and error.param.startswith("tools["):
            error.param, error.message = _tool_words(error.param), _tool_words(error.message)
        elif error.param is not None:
            error.param, error.message = (
                body.sent_names(text).replace(".image_url", ".source") for text in (error.param, error.message)
            )
        raise


def _too_long(error: PromptTooLongError, body: CountTokensRequest) -> str:
    """Agents look for these words, and for the numbers in them, to know by how much to shorten."""
    asked = body.max_tokens if isinstance(body, MessagesRequest) else 0
    if error.prompt_tokens >= error.context:
        return f"prompt is too long: {error.prompt_tokens} tokens > {error.context} maximum"
    return (
        f"input length and `max_tokens` exceed context limit: {error.prompt_tokens} + {asked} > {error.context}, "
        "decrease input length or `max_tokens` and try again"
    )


def _tool_words(text: str) -> str:
    return text.replace(".function.parameters", ".input_schema").replace(".function", "")
