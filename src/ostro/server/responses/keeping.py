"""What `/v1/responses` finds in the store, and puts there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ostro.core.errors import InvalidRequestError
from ostro.server.responses.ids import response_of
from ostro.storage.responses import ResponseStore, StoredResponse, Turn
from ostro.web.response_items import Item
from ostro.web.response_object import ResponseObject
from ostro.web.responses import ResponsesRequest


class ResponseNotFoundError(InvalidRequestError):
    """No such answer, not any more, or another key's."""

    status = 404
    code = "response_not_found"


@dataclass(frozen=True)
class Past:
    """history: all items of the conversation that a request goes on from, in order. referenced: items by their ids."""

    history: Sequence[Item]
    referenced: Mapping[str, Item]


async def recall(store: ResponseStore, body: ResponsesRequest, owner: str) -> Past:
    """What a request refers to. Raises InvalidRequestError for an answer to go on from that is not there."""
    history: list[Item] = []
    if body.previous_response_id is not None:
        turns = await store.conversation(body.previous_response_id, owner)
        _refuse_gap(body.previous_response_id, turns)
        history = items_of(turns)
    items = [] if isinstance(body.input, str) else body.input
    wanted = {item.id for item in items if item.type == "item_reference" and item.id is not None}
    known = {item.id: item for item in history}
    elsewhere = {response for name in wanted - known.keys() if (response := response_of(name)) is not None}
    if elsewhere:
        found = await store.several(elsewhere, owner)
        known |= {item.id: item for item in items_of(list(found.values()))}
    return Past(history, {name: known[name] for name in wanted & known.keys()})


def items_of(turns: Sequence[Turn]) -> list[Item]:
    """The items of some turns, oldest first."""
    return [item for turn in turns for item in _decoded([*turn.input, *turn.output])]


async def find(store: ResponseStore, response_id: str, owner: str) -> StoredResponse:
    """Raises ResponseNotFoundError."""
    found = await store.find(response_id, owner)
    if found is None:
        raise not_found(response_id)
    return found


def not_found(response_id: str) -> ResponseNotFoundError:
    return ResponseNotFoundError(f"Response with id '{response_id[:100]}' not found.", param="response_id")


async def keep(store: ResponseStore, response: ResponseObject, given: Sequence[Item], owner: str) -> None:
    """Store a finished answer with the items of its own request."""
    body: dict[str, Any] = msgspec.to_builtins(response)
    output = body.pop("output")
    stored = StoredResponse(
        id=response.id,
        previous_id=response.previous_response_id,
        created_at=response.created_at,
        model=response.model,
        owner=owner,
        body=body,
        input=msgspec.to_builtins(given),
        output=output,
    )
    await store.add(stored)


def _refuse_gap(wanted: str, turns: Sequence[Turn]) -> None:
    if turns and turns[0].previous_id is None:
        return
    message = f"Previous response with id '{wanted[:100]}' not found."
    if turns:
        message = (
            f"The response '{wanted[:100]}' goes on from '{turns[0].previous_id}', which was deleted, so the beginning "
            "of its conversation is gone. Send the whole conversation as input."
        )
    raise InvalidRequestError(message, param="previous_response_id", code="previous_response_not_found")


def _decoded(items: Sequence[Any]) -> list[Item]:
    return msgspec.convert(items, list[Item])
