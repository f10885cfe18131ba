"""Input items as they came, read into items as answers and the store have them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, TypeVar, cast

import msgspec

from ostro.core.errors import InvalidRequestError
from ostro.server.responses.ids import item_id
from ostro.web.response_input import InputItem, InputPart, missing
from ostro.web.response_items import (
    FunctionCallItem,
    FunctionCallOutputItem,
    InputAudio,
    InputImage,
    InputText,
    Item,
    ItemStatus,
    MessageItem,
    MessagePart,
    OutputText,
    ReasoningItem,
    ReasoningText,
    Refusal,
)

T = TypeVar("T")

_ROLES = ("user", "assistant", "system", "developer")
_MAX_ID = 128
# A message's texts are taken under each of these names; the answer's own says which it is.
_TEXTS = ("input_text", "output_text", "text")


def read_items(
    given: str | Sequence[InputItem], response_id: str, *, taken: Collection[str], referenced: Mapping[str, Item]
) -> list[Item]:
    """Checked items with an id each: their own, or one of this answer where they have none or a taken one.

    referenced: what item references stand for. Raises InvalidRequestError naming the field.
    """
    if isinstance(given, str):
        text = MessageItem(id=item_id(response_id, "message", 0, given=True), role="user", content=[InputText(given)])
        return [text]
    used = set(taken)
    items: list[Item] = []
    for index, one in enumerate(given):
        item = _read(f"input[{index}]", one, referenced)
        if not item.id or len(item.id) > _MAX_ID or item.id in used:
            kind = str(item.__struct_config__.tag)
            item = msgspec.structs.replace(item, id=item_id(response_id, kind, index, given=True))
        used.add(item.id)
        items.append(item)
    return items


def _read(where: str, item: InputItem, referenced: Mapping[str, Item]) -> Item:
    own_id = item.id or ""
    match item.type:
        case None | "message":
            return _message(where, own_id, item)
        case "function_call":
            call_id = _needed(where, "call_id", item.call_id)
            name, arguments = _needed(where, "name", item.name), _needed(where, "arguments", item.arguments)
            status: ItemStatus = "incomplete" if item.status == "incomplete" else "completed"
            return FunctionCallItem(id=own_id, status=status, call_id=call_id, name=name, arguments=arguments)
        case "function_call_output":
            call_id = _needed(where, "call_id", item.call_id)
            return FunctionCallOutputItem(id=own_id, call_id=call_id, output=_output(where, item.output))
        case "reasoning":
            return ReasoningItem(id=own_id, content=_thoughts(where, item))
        case "item_reference":
            return _resolved(where, item, referenced)
    raise InvalidRequestError(
        f"{where} is of type {str(item.type)[:40]!r}. This server knows items of type 'message', 'function_call', "
        "'function_call_output', 'reasoning' and 'item_reference'.",
        param=f"{where}.type",
        code="unsupported_content",
    )


def _message(where: str, own_id: str, item: InputItem) -> MessageItem:
    role = _needed(where, "role", item.role)
    if role not in _ROLES:
        raise InvalidRequestError(
            f"{where}.role is {role[:40]!r}; it can be {', '.join(_ROLES)}.", param=f"{where}.role"
        )
    if item.content is None:
        raise missing(f"{where}.content")
    parts = [InputPart(type="text", text=item.content)] if isinstance(item.content, str) else item.content
    read = [_part(f"{where}.content[{number}]", role, part) for number, part in enumerate(parts)]
    known = cast(Literal["user", "assistant", "system", "developer"], role)
    return MessageItem(id=own_id, role=known, content=read)


def _part(where: str, role: str, part: InputPart) -> MessagePart:
    if part.type == "refusal" and role == "assistant":
        return Refusal(_needed(where, "refusal", part.refusal))
    if role == "user" and part.type == "input_image":
        return InputImage(image_url=_needed(where, "image_url", part.image_url), detail=part.detail or "auto")
    if role == "user" and part.type == "input_audio":
        return InputAudio(_sound(f"{where}.input_audio", _needed(where, "input_audio", part.input_audio)))
    text = _text(where, part)
    return OutputText(text=text) if role == "assistant" else InputText(text)


def _sound(where: str, given: Mapping[str, object]) -> dict[str, str]:
    """What is kept of a sound: its base64 or its address, and what is said of its format."""
    kept: dict[str, str] = {}
    optional = {"format", "media_type", "data" if given.get("url") is not None else "url"}
    for name in ("data", "url", "format", "media_type"):
        value = given.get(name)
        if value is None and name in optional:
            continue
        if not isinstance(value, str) or not value:
            raise InvalidRequestError(f"{where}.{name} must be a non-empty string.", param=f"{where}.{name}")
        kept[name] = value
    return kept


def _text(where: str, part: InputPart) -> str:
    if part.type not in _TEXTS:
        raise InvalidRequestError(
            f"{where} is of type {part.type[:40]!r}, but this model takes text only.",
            param=f"{where}.type",
            code="unsupported_content",
        )
    return _needed(where, "text", part.text)


def _output(where: str, given: str | list[InputPart] | None) -> str | list[InputText]:
    if given is None:
        raise missing(f"{where}.output")
    if isinstance(given, str):
        return given
    return [InputText(_text(f"{where}.output[{number}]", part)) for number, part in enumerate(given)]


def _thoughts(where: str, item: InputItem) -> list[ReasoningText]:
    """A thought without its text (encrypted elsewhere, or only summarised) is left out, as templates leave old ones."""
    if item.content is None or isinstance(item.content, str):
        return [ReasoningText(item.content)] if item.content else []
    thoughts = []
    for number, part in enumerate(item.content):
        at = f"{where}.content[{number}]"
        if part.type != "reasoning_text":
            raise InvalidRequestError(
                f"{at} is of type {part.type[:40]!r}; a thought has parts of type 'reasoning_text'.", param=f"{at}.type"
            )
        thoughts.append(ReasoningText(_needed(at, "text", part.text)))
    return thoughts


def _resolved(where: str, item: InputItem, referenced: Mapping[str, Item]) -> Item:
    wanted = _needed(where, "id", item.id)
    if wanted not in referenced:
        raise InvalidRequestError(
            f"{where} refers to the item '{wanted[:100]}', which is not stored here. Send the item itself.",
            param=f"{where}.id",
            code="item_not_found",
        )
    return referenced[wanted]


def _needed(where: str, field: str, value: T | None) -> T:
    if value is None:
        raise missing(f"{where}.{field}")
    return value
