"""`/v1/responses`: OpenAI's other way to hold a conversation, stateless and stored."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from ostro.core.errors import InvalidRequestError, OstroError
from ostro.server.answering import json_response, stream, stream_failure, whole
from ostro.server.chatting import ChatSpec, start_chat
from ostro.server.context import ServerContext, context_of
from ostro.server.generation import Generation
from ostro.server.models import ServedModel
from ostro.server.patience import patient
from ostro.server.responses.ids import new_response_id
from ostro.server.responses.keeping import find, items_of, keep, not_found, recall
from ostro.server.responses.messages import ChatMessages
from ostro.server.responses.reading import read_items
from ostro.server.responses.writer import ResponseWriter
from ostro.storage.responses import ResponseStore
from ostro.web.auth import is_in_process, owner_of
from ostro.web.body import read_json
from ostro.web.openapi import gives, takes
from ostro.web.response_events import AnyEvent, Event, StreamError
from ostro.web.response_items import Item, ItemList
from ostro.web.response_object import DeletedResponse, ResponseObject, begun
from ostro.web.responses import InputItemsPage, ResponsesRequest
from ostro.web.sse import sse_event

log = logging.getLogger("ostro.server")

router = APIRouter(prefix="/v1/responses", tags=["responses"])

Context = Annotated[ServerContext, Depends(context_of)]


@dataclass(frozen=True)
class _Asked:
    """What a request is, before there is a model for it. given: the items of its input. headers: of its answer."""

    id: str
    given: list[Item]
    messages: ChatMessages
    spec: ChatSpec
    headers: Mapping[str, str]


@router.post("", openapi_extra=takes(ResponsesRequest), responses=gives(ResponseObject, streamed=AnyEvent))
async def create(request: Request, context: Context) -> Response:
    body = await read_json(request, ResponsesRequest)
    body.refuse_unsupported()
    owner = owner_of(request.scope)
    store = ResponseStore(context.database)
    past = await recall(store, body, owner)
    response_id = new_response_id()
    taken = {item.id for item in past.history}
    given = read_items(body.input, response_id, taken=taken, referenced=past.referenced)
    messages = _messages(body.instructions, past.history, given)
    with messages.own_words():
        spec = _spec(body, messages)
    headers = body.ignored_header(*body.ignored(), *_without_place(spec, context.models.find(body.model)))
    work = _answer(request, context, body, _Asked(response_id, given, messages, spec, headers))
    return await patient(context, work, streamed=body.stream, headers=headers, failed=_failed)


async def _answer(request: Request, context: ServerContext, body: ResponsesRequest, asked: _Asked) -> Response:
    owner, store = owner_of(request.scope), ResponseStore(context.database)
    response_id, given, messages, spec = asked.id, asked.given, asked.messages, asked.spec
    model = await context.models.use(request, body.model)
    # A batch's answers are in its output file, and a job has no key that could find them here.
    stored = body.store is not False and not is_in_process(request.scope)
    response = begun(body, spec.params, id=response_id, created_at=int(time.time()), model=model.name, store=stored)
    with messages.own_words():
        generation = await start_chat(request, context, model, spec, response_id)
    writer = ResponseWriter(response, model.tokenizer)

    async def finish() -> list[Event]:
        """The last events, when the answer can be fetched already."""
        events = writer.end(generation.usage())
        if stored:
            await keep(store, writer.response, given, owner)
        return events

    if body.stream:
        return await stream(request, context, generation, _frames(generation, writer, finish), asked.headers)
    await whole(request, generation, _write(generation, writer, finish))
    return json_response(writer.response, asked.headers)


@router.get("/{response_id}", responses=gives(ResponseObject))
async def retrieve(
    response_id: str, request: Request, context: Context, streamed: Annotated[bool, Query(alias="stream")] = False
) -> Response:
    if streamed:
        raise InvalidRequestError("A stored response is given whole. Leave stream out.", param="stream")
    found = await find(ResponseStore(context.database), response_id, owner_of(request.scope))
    return json_response({**found.body, "output": found.output}, {})


@router.delete("/{response_id}", responses=gives(DeletedResponse))
async def delete(response_id: str, request: Request, context: Context) -> Response:
    if not await ResponseStore(context.database).delete(response_id, owner_of(request.scope)):
        raise not_found(response_id)
    return json_response(DeletedResponse(response_id), {})


@router.get("/{response_id}/input_items", responses=gives(ItemList))
async def input_items(
    response_id: str, request: Request, context: Context, query: Annotated[InputItemsPage, Query()]
) -> Response:
    """Everything that the answer was made from: the conversation before it, and its own input."""
    turns = await ResponseStore(context.database).conversation(response_id, owner_of(request.scope))
    if not turns:
        raise not_found(response_id)
    items = items_of([*turns[:-1], replace(turns[-1], output=[])])
    return json_response(_page(items, query), {})


@router.post("/{response_id}/cancel", response_class=Response)
async def cancel(response_id: str, request: Request, context: Context) -> None:
    await find(ResponseStore(context.database), response_id, owner_of(request.scope))
    raise InvalidRequestError(
        "Cannot cancel a synchronous response: it was finished before it could be found. Close the connection of one "
        "that is being made.",
        param="response_id",
    )


def _messages(instructions: str | None, history: Sequence[Item], given: Sequence[Item]) -> ChatMessages:
    messages = ChatMessages(instructions)
    for item in history:
        messages.add("previous_response_id", item)
    for index, item in enumerate(given):
        messages.add(f"input[{index}]", item)
    messages.finish()
    return messages


def _spec(body: ResponsesRequest, messages: ChatMessages) -> ChatSpec:
    return ChatSpec(
        messages=messages.messages,
        params=body.params(),
        tools=body.chat_tools(),
        policy=body.policy(),
        response=body.response(),
        reasoning_effort=body.effort,
        priority=body.priority or 0,
        timeout=body.timeout,
        messages_param="input",
        response_param="text.format",
    )


def _without_place(spec: ChatSpec, model: ServedModel) -> list[str]:
    return [name.replace("reasoning_effort", "reasoning.effort") for name in spec.ignored(model)]


async def _write(generation: Generation, writer: ResponseWriter, finish: Callable[[], Awaitable[object]]) -> None:
    while (piece := await generation.next()) is not None:
        writer.add(piece)
    await finish()


async def _frames(
    generation: Generation, writer: ResponseWriter, finish: Callable[[], Awaitable[list[Event]]]
) -> AsyncIterator[bytes]:
    try:
        yield _encoded(writer.begin())
        while (piece := await generation.next()) is not None:
            if events := writer.add(piece):
                yield _encoded(events)
        yield _encoded(await finish())
    except OstroError as error:
        yield _encoded(writer.fail(error))
    except Exception:  # the status is long sent, so a stream can only say it in an event
        log.exception("the stream of %s failed", writer.response.id)
        yield _encoded(writer.fail(OstroError("The server failed on this request. Its log says why.")))


def _failed(error: Exception) -> bytes:
    """What ends a stream before its response has begun."""
    return _encoded([StreamError.of(stream_failure(error, "a response that waited"))])


def _encoded(events: Sequence[Event]) -> bytes:
    return b"".join(sse_event(event.kind, event) for event in events)


def _page(items: Sequence[Item], query: InputItemsPage) -> ItemList:
    ordered = list(items) if query.order == "asc" else list(reversed(items))
    if query.after is not None:
        places = [place for place, item in enumerate(ordered) if item.id == query.after]
        if not places:
            raise InvalidRequestError(f"There is no item '{query.after[:100]}' to go on after.", param="after")
        ordered = ordered[places[0] + 1 :]
    shown = ordered[: query.limit]
    return ItemList(
        data=shown,
        first_id=shown[0].id if shown else None,
        last_id=shown[-1].id if shown else None,
        has_more=len(ordered) > len(shown),
    )
